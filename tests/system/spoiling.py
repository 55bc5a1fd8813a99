"""Scans that faults of the menu spoil, at one beamline and one service, and what the service makes of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdi_stream.files.result_file import read_frame_sums
from cdi_stream.messages import RecordedScan
from sim_beamline.faults.menu import Faults
from sim_beamline.plans import PlanSession
from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline

WAITS = """
[assemble]
late_grace_s = 0.2
reading_timeout_s = 1.5
idle_timeout_s = 3.0
"""
"""Short waiting times, so that an incomplete scan is declared in seconds."""

CHEAP_CRYSTAL = """
[network]
file = "chan2021-small"

[phase]
recipe = "SW[every=10,after=0,threshold=0.25,relative=rms,sigma=0.5]+30*ER"

"""
"""The quickest network and few cycles: the menu tries the join of frames and angles, not the search."""

RESULT_S = 30.0
"""Time [s] in which a result must come; the waiting times of the service are much shorter."""

RECONNECTION_S = 2.5
"""Time [s] in which all sockets have found a new proxy: they try at least once a second."""

LOSING = frozenset(
    {"drop", "truncate", "wrong_shape", "wrong_dtype", "late_join", "frames_lost", "stall_long", "abort"}
    | {"detector_restart"}
)
"""Faults whose frames never come, or come too late."""

HOLDING = frozenset({"reorder", "burst", "stall", "stall_long", "documents_before"})
"""Faults that hold frames back."""

ALTERING = frozenset({"corrupt", "flip"})
"""Faults whose frames come with other pixels, or are refused."""

GRADES = ("good", "doubtful", "failed", "none")
"""Verdicts from the best to the worst; ``none``: nothing came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the service made of one scan.

    Parameters
    ----------
    faults
        Faults of the scan.
    verdict, verdict_join, reasons, run_uid
        As published.
    counts
        Frames expected, received, missing, duplicate, late and bad, as published.
    missing
        Points without counts in the result.
    altered
        Points whose counts differ from the recorded scan.
    is_in_place
        Whether the map to reciprocal space is that of the recorded scan; None without a crystal.
    """

    faults: Faults
    verdict: str
    verdict_join: str = "none"
    reasons: str = ""
    run_uid: str = ""
    counts: tuple[int, ...] = ()
    missing: frozenset[int] = frozenset()
    altered: frozenset[int] = frozenset()
    is_in_place: bool | None = None

    @property
    def may_miss(self) -> frozenset[int]:
        """Points whose frames the faults take away: a detector that is restarted also loses what it holds back."""
        if "detector_restart" in self.faults.names and HOLDING & set(self.faults.names):
            return frozenset(range(self.faults.n_points))
        return frozenset().union(*(self.faults.points(n) for n in self.faults.names if n in LOSING | ALTERING))

    def problems(self) -> list[str]:
        """What is wrong with the outcome: frames lost without a word, or a wrong volume that is called good."""
        if not self.counts:
            return [] if _is_silent(self.faults) else ["nothing came out"]
        expected, received, missing = self.counts[:3]
        altering = frozenset().union(*(self.faults.points(n) for n in self.faults.names if n in ALTERING))
        wrong = self.altered - altering
        checks = {
            f"{expected} expected, {received} received, {missing} missing": expected == received + missing,
            f"{missing} missing, but {len(self.missing)} without counts": missing == len(self.missing),
            f"frames {sorted(wrong)} are not those of their points": not wrong,
            f"frames {sorted(self.missing - self.may_miss)} are missing": self.is_explained,
            "incomplete, but called good": not self.missing or self.verdict_join != "good",
            "at wrong angles, but called good": self.is_in_place is not False or self.verdict_join != "good",
            "no reason is given": self.verdict in ("good", "doubtful") or bool(self.reasons),
        }
        return [text for text, is_right in checks.items() if not is_right]

    @property
    def is_explained(self) -> bool:
        """Whether every missing frame was taken away by a fault, or the scan is declared failed."""
        return self.missing <= self.may_miss or self.verdict == "failed"

    def is_whole(self) -> bool:
        """Whether the scan is complete, each frame in its place, and joined without a doubt."""
        n = len(self.counts) and self.counts[0]
        whole = (n, n, 0, 0, 0, 0)
        return self.counts == whole and not self.altered and self.verdict_join == "good" and bool(self.is_in_place)


def _is_silent(faults: Faults) -> bool:
    """Whether the faults let nothing through that names the run: neither documents nor a start message."""
    return "documents_lost" in faults.names and bool({"frames_lost", "late_join"} & set(faults.names))


class SpoiledBeamline:
    """One service and one beamline, at which spoiled and clean scans are measured in turn."""

    def __init__(self, line: TestBeamline, scan: RecordedScan) -> None:
        self.line = line
        self._scan = scan
        self._n_read = 0
        self._names: dict[str, str] = {}
        self._raw_of: dict[str, str] = {}
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._clean: Outcome | None = None
        self._affine: dict[str, Any] = {}
        line.start_service()
        line.start_detector("--first-series", "1")
        self._session = PlanSession(scan, line.control, line.config.documents.publish)

    def close(self) -> None:
        self._session.close()

    def restart_with_tiled(self) -> None:
        """Kill the service and start it again, now with a Tiled server of its own."""
        self.line.children.kill("service")
        config = self.line.config_file
        config.write_text(config.read_text().replace('tiled = "none"\n', ""))
        self.line.start_service()

    def is_in_tiled(self, outcome: Outcome) -> bool:
        """Wait until the Tiled server has the result's run to its end; False if it does not get it in two minutes."""
        end_s = time.monotonic() + 120
        while not self.line.is_in_tiled(outcome.run_uid):
            if time.monotonic() > end_s:
                return False
            time.sleep(0.2)
        return True

    def measure(self, *names: str, seed: int = 0) -> Outcome:
        """Measure one scan with faults, and wait for its result."""
        faults = Faults(names=names, seed=seed, n_points=len(self._scan.frames))
        uid = self._session.measure(faults=faults, at_middle=lambda: self._act(names))
        if "proxy_restart" in names:
            time.sleep(RECONNECTION_S)
        wait_s = 6.0 if _is_silent(faults) else RESULT_S
        return self._outcome(faults, self._result(uid, wait_s))

    def is_next_right(self) -> tuple[bool, Outcome]:
        """Measure a clean scan; return whether it is whole and its verdict as good as that of the first one."""
        outcome = self.measure()
        if self._clean is None:
            self._clean = outcome
        is_as_good = GRADES.index(outcome.verdict) <= GRADES.index(self._clean.verdict)
        return outcome.is_whole() and is_as_good, outcome

    def _act(self, names: tuple[str, ...]) -> None:
        """Do to the processes what the faults say."""
        if "proxy_restart" in names:
            self.line.children.kill("proxy")
            self.line.start_proxy()
        if "tiled_restart" in names:
            for pid in self.line.tiled_pids():
                os.kill(pid, signal.SIGKILL)
        if "detector_restart" in names:
            self.line.children.kill("detector")
            self.line.start_detector("--first-series", "1")

    def _result(self, uid: str, wait_s: float) -> dict[str, Any] | None:
        """Return the data of the first reconstruction of a run; None if there is none in time."""
        end_s = time.monotonic() + wait_s
        while not self._events.get(uid):
            if time.monotonic() > end_s:
                return None
            time.sleep(0.05)
            self._read()
        return self._events[uid][0]

    def _read(self) -> None:
        """Read what the foreign listener has heard since the last time."""
        with self.line.listener_log.open("rb") as file:
            file.seek(self._n_read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._n_read += len(whole)
        for line in whole.splitlines():
            self._take(*json.loads(line))

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start" and doc.get("analysis_stage") == "reconstruction":
            self._raw_of[doc["uid"]] = doc["original_run_uid"]
        elif name == "descriptor" and doc["run_start"] in self._raw_of and doc["name"] == "reconstruction":
            self._names[doc["uid"]] = self._raw_of[doc["run_start"]]
        elif name == "event" and doc["descriptor"] in self._names:
            data = {key.removeprefix("reconstruction_"): value for key, value in doc["data"].items()}
            self._events.setdefault(self._names[doc["descriptor"]], []).append(data)

    def _outcome(self, faults: Faults, data: dict[str, Any] | None) -> Outcome:
        if data is None:
            return Outcome(faults=faults, verdict="none")
        sums = np.zeros(len(self._scan.frames)) if (read := read_frame_sums(Path(data["file"]))) is None else read
        sums = np.pad(sums, (0, max(0, len(self._scan.frames) - len(sums))))
        affine = json.loads(data["affine"])
        self._affine = self._affine or affine
        return Outcome(
            faults=faults,
            verdict=data["verdict"],
            verdict_join=data["verdict_join"],
            reasons=data["reasons"],
            run_uid=Path(data["file"]).name.split("_")[0],
            counts=tuple(
                data[f"frames_{name}"] for name in ("expected", "received", "missing", "duplicate", "late", "bad")
            ),
            missing=frozenset(np.flatnonzero(sums == 0).tolist()),
            altered=frozenset(np.flatnonzero((sums != 0) & (sums != self._recorded(len(sums)))).tolist()),
            is_in_place=_is_same_map(affine, self._affine) if affine else None,
        )

    def _recorded(self, n: int) -> np.ndarray:
        """Sums of the recorded frames; -1 for points beyond the scan."""
        return np.pad(self._scan.frame_sums, (0, n - len(self._scan.frames)), constant_values=-1)


def _is_same_map(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two maps to reciprocal space have the same steps, and origins within a few voxels."""
    steps = [np.array(each["bq_lab_inv_m"]) for each in (one, other)]
    apart = np.linalg.solve(steps[1], np.array(one["q0_lab_inv_m"]) - np.array(other["q0_lab_inv_m"]))
    return bool(np.allclose(*steps, rtol=2e-3, atol=1e-3 * np.abs(steps[1]).max()) and np.abs(apart).max() < 4)


@contextlib.contextmanager
def spoiled_beamline(directory: Path, *, has_tiled: bool = True) -> Iterator[SpoiledBeamline]:
    """Yield a beamline with a small scan, at which the first clean scan was right."""
    scan = recorded_scan("small")
    with beamline(directory, scan, WAITS, has_tiled=has_tiled, phase_toml=CHEAP_CRYSTAL) as line:
        spoiled = SpoiledBeamline(line, scan)
        try:
            is_right, outcome = spoiled.is_next_right()
            assert is_right, outcome
            yield spoiled
        finally:
            spoiled.close()
