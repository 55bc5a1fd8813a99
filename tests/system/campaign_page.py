"""The page of the documentation that a campaign of faults writes."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

from sim_beamline.faults.menu import LONG_STALL_S, MENU, STALL_S

Line = dict[str, Any]

HEAD = f"""# Faults, and what comes of them

The simulated beamline can spoil a scan on purpose:

    python -m sim_beamline plan --fault drop --fault clock_skew --fault-seed 3 ...

`make campaign` measures every fault alone, {{n_pairs}} pairs with fixed seeds, and scans during which the service is
killed. It writes this page. Each spoiled scan has 32 frames of 64 x 64 pixels. When its result is there, a clean scan
follows through the same service. The waiting times are short: 1.5 s for documents, 3 s for a message of the detector.

Every scan must end in the right volume, or in one that says what it lacks. The campaign compares the counts of each
frame with the recorded scan: a frame at a wrong angle is an error, and so is a frame that is missing without a word.
"Next right" means that the clean scan behind it had every frame in its place, no doubt about the join, and a verdict as
good as before.

## The menu

A stall lasts {STALL_S:g} s, a long stall {LONG_STALL_S:g} s.

| fault | what goes wrong |
|---|---|
"""

LIMITS = """
## What cannot be seen

- A frame whose pixels were changed so that it still decodes looks like any other frame: the streams carry no
  checksum that can be relied on. Hot pixels in single frames are masked, and make the result `doubtful`. Changes within
  the counting noise are not seen.
- Frames whose start message and whose documents were all lost name no run: they are dropped, with a warning in the log.
- A scan of which neither frames nor documents come is not known to the service.
"""


def page(lines: Sequence[Line]) -> str:
    """Text of the page, from the lines of a campaign."""
    alone = [line for line in lines if line["entry"] in MENU]
    pairs = [line for line in lines if line["entry"].startswith("pair ")]
    kills = [line for line in lines if line["entry"].startswith("kills ")]
    wrong = [line for line in alone + pairs if line["problems"] or not line["is_next_right"]]
    menu = "\n".join(f"| `{fault.name}` | {fault.sentence} |" for fault in MENU.values())
    date = datetime.datetime.now(datetime.UTC).strftime("%d %B %Y").lstrip("0")
    return "\n".join(
        [
            HEAD.format(n_pairs=len(pairs)) + menu,
            f"\n## Measured\n\nOn {date}, two shared x86 cores, `make campaign`: {len(alone)} faults alone and "
            f"{len(pairs)} pairs, {len(wrong)} of them wrong. `altered` counts frames that came with other pixels.",
            "\n### Each fault alone\n\n" + table(alone),
            "So no fault alone gives a wrong volume that is called good, and none harms the next scan."
            if not any(line in alone for line in wrong)
            else "Some faults end wrong, see above.",
            "\n### Pairs\n\n" + table(pairs),
            "So no pair of these does either." if not any(line in pairs for line in wrong) else "Some pairs end wrong.",
            "\n### Kills\n\n" + ("\n\n".join(map(_of_kills, kills)) or "Not measured this time."),
            LIMITS,
        ]
    )


def table(lines: Sequence[Line]) -> str:
    """Table of the outcomes."""
    head = (
        "| faults | verdict | expected | received | missing | duplicate | late | bad | altered | reasons | next right |"
    )
    return "\n".join([head, "|" + "---|" * 11, *map(_row, lines), ""])


def _row(line: Line) -> str:
    names = ("expected", "received", "missing", "duplicate", "late", "bad")
    counts = ["-" if line[name] is None else str(line[name]) for name in names]
    verdict = line["verdict"] + (f" ({'; '.join(line['problems'])})" if line["problems"] else "")
    seed = f" (seed {line['seed']})" if line["seed"] else ""
    cells = [", ".join(line["faults"]) + seed, verdict, *counts, str(line["altered"]), _short(line["reasons"])]
    return "| " + " | ".join([*cells, "yes" if line["is_next_right"] else "no"]) + " |"


def _short(reasons: str) -> str:
    """Reasons without what follows a colon, without uids, each at most 70 letters."""
    texts = [re.split(r"[:(]", text)[0].strip() for text in reasons.split(" | ") if text]
    texts = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "...", text)[:70] for text in texts]
    return "; ".join(texts)


def _of_kills(line: Line) -> str:
    """Counts of scans during which the service was killed."""
    verdicts = ", ".join(f"{n} `{grade}`" for grade, n in line["verdicts"].items())
    return (
        f"Scans of 48 frames: {line['scans']}; kills of the service meanwhile: {line['kills']}; reconstructed: "
        f"{line['reconstructed']}, twice: {line['reconstructed_twice']}; verdicts: {verdicts}; frames missing: "
        f"{line['frames_missing']} of {line['frames_expected']}; documents heard twice: "
        f"{line['documents_heard_twice']}; runs left open: {line['runs_left_open']}; runs in Tiled: "
        f"{line['runs_in_tiled']} of {line['runs']}."
    )
