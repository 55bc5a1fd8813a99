"""Combine the verdict about the crystal with the doubts about frames, angles and run."""

from __future__ import annotations

from cdi_stream.messages import Verdict

GRADES = ("good", "preliminary", "doubtful", "failed")
"""Grades, from the best to the worst."""


def combined(crystal: Verdict, doubts: tuple[str, ...], notes: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict of a result: the worse of crystal and join, with the reasons of both.

    Parameters
    ----------
    crystal
        Verdict about the crystal alone.
    doubts
        Sentences about uncertain frames, angles and run; without any, the join is ``good``.
    notes
        Sentences that change no grade.
    """
    join = "doubtful" if doubts else "good"
    grade = max((crystal.grade, join), key=GRADES.index)
    if crystal.grade == "preliminary":
        grade = "preliminary"
    return Verdict(grade=grade, reasons=(*doubts, *crystal.reasons, *notes), crystal=crystal.grade, join=join)


def failed_verdict(reason: str, doubts: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict of a curve that gave no crystal."""
    return Verdict(
        grade="failed", reasons=(reason, *doubts, *notes), crystal="failed", join="doubtful" if doubts else "good"
    )
