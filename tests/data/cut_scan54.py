"""Cut the golden scan of `tests/data/scan54` out of the published one: fewer frames, fewer pixels, the same format.

Usage: ``python -m tests.data.cut_scan54 PATH``, where PATH is the published folder that `README.md` of the scan names.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import tifffile

FRAMES = range(36, 164, 2)
"""Rows of the published scan that are kept: every second row about the peak, which is in row 99."""
PIXELS = slice(80, 176)
"""Rows and columns of the 256 that are kept; the centre stays the same, and the beam is assumed there."""
IMAGES = Path("AD34idcTIM2_example") / "Staff20-1a_S0054"


def cut(source: Path, target: Path) -> None:
    """Write the smaller scan: frames, SPEC file with its rows, dark image, white field and licence."""
    (target / IMAGES).mkdir(parents=True, exist_ok=True)
    sums = []
    for k, row in enumerate(FRAMES):
        with tifffile.TiffFile(source / "example_data" / IMAGES / f"{IMAGES.name}_{row:05d}.tif") as file:
            frame, tags = file.asarray()[PIXELS, PIXELS], file.pages[0].tags
        own = [(tag.code, tag.dtype, tag.count, tag.value) for tag in tags if tag.code >= 65_000]
        sums.append(int(frame.sum()))
        path = target / IMAGES / f"{IMAGES.name}_{k:05d}.tif"
        how = {"software": "EPICS areaDetector", "extratags": own, "rowsperstrip": len(frame), "compression": "zlib"}
        tifffile.imwrite(path, frame, metadata=None, **how)
    for name in ("dark.tif", "whitefield.tif"):
        image = tifffile.imread(source / "example_data" / name)[PIXELS, PIXELS]
        tifffile.imwrite(target / name, image, metadata=None, compression="zlib")
    text = (source / "example_data" / "example.spec").read_text()
    (target / "example.spec").write_text(spec_text(text.splitlines(), sums))
    shutil.copyfile(source / "LICENSE", target / "LICENSE")


def spec_text(lines: list[str], sums: list[int]) -> str:
    """The head of the SPEC file and scan 54 with the rows that are kept; ``ImageTot`` is the sum of the cut frame."""
    head = lines[: lines.index("", lines.index("") + 1)]
    begin = next(k for k, line in enumerate(lines) if line.startswith("#S 54 "))
    entry = lines[begin : lines.index("", begin)]
    labels = next(line for line in entry if line.startswith("#L "))[3:].split("  ")
    rows = [line.split() for line in entry if line and not line.startswith("#")]
    kept = [rows[k] for k in FRAMES]
    for row, total in zip(kept, sums, strict=True):
        row[labels.index("ImageTot")] = str(total)
    notes = [line for line in entry if line.startswith("#")]
    start, stop = kept[0][0], kept[-1][0]
    notes[0] = f"#S 54  ascan  th {start} {stop}  {len(kept) - 1} 0.25"
    first, width = PIXELS.start, PIXELS.stop - PIXELS.start
    notes = [f"#UIMR5  {first} {width} {first} {width} 1" if n.startswith("#UIMR5") else n for n in notes]
    return "\n".join([*head, "", *notes, *(" ".join(row) for row in kept), ""])


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(__file__).parent / "scan54")
