"""One verdict of two: what the phasing says of the crystal, and what the bookkeeping says of frames and angles."""

from __future__ import annotations

from cdi_stream.messages import Verdict

GRADES = ("good", "preliminary", "doubtful", "failed")
"""From the best to the worst."""


def combined(crystal: Verdict, doubts: tuple[str, ...], notes: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict of a result: the worse of crystal and join, with the reasons of both.

    Parameters
    ----------
    crystal
        What is said of the crystal alone.
    doubts
        What is uncertain of frames, angles and run; none makes the join ``good``.
    notes
        What is only told: it changes no grade.
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
