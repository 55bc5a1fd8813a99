"""Draw the diagrams of the documentation as SVG, in this folder.  The layers come from tests/test_architecture.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INK, SOFT, BLUE, ORANGE, GREEN = "#1f2933", "#eef2f6", "#0b5cad", "#b5530a", "#1d7a46"
"""Colours: lines and text, fill of boxes, and three accents that also differ in grey."""

Point = tuple[float, float]


class Drawing:
    """An SVG picture of boxes, arrows and lines of text; lengths in pixels, y downwards."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, text: str, colour: str = INK) -> None:
        """Draw a box with centred lines of text; the first line is bold if there are several."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{SOFT}" stroke="{colour}"/>'
        )
        lines = text.split("\n")
        for k, line in enumerate(lines):
            middle = y + height / 2 + (k - (len(lines) - 1) / 2) * 17 + 5
            self.text((x + width / 2, middle), line, "middle", colour, is_bold=k == 0 and len(lines) > 1)

    def text(self, at: Point, text: str, anchor: str = "start", colour: str = INK, *, is_bold: bool = False) -> None:
        """Write one line."""
        weight = ' font-weight="bold"' if is_bold else ""
        self._parts.append(
            f'<text x="{at[0]:g}" y="{at[1]:g}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
        )

    def arrow(self, *points: Point, colour: str = INK, is_dashed: bool = False) -> None:
        """Draw a line through the points with a head at the last."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if is_dashed else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash} '
            f'marker-end="url(#head{colour[1:]})"/>'
        )

    def path(self, d: str, colour: str = INK, fill: str = "none", width: float = 1.6) -> None:
        """Draw a path given in SVG's own notation."""
        self._parts.append(f'<path d="{d}" fill="{fill}" stroke="{colour}" stroke-width="{width}"/>')

    def write(self, name: str) -> None:
        """Write the picture into a file of this folder."""
        heads = "".join(
            f'<marker id="head{c[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="{c}"/></marker>'
            for c in (INK, BLUE, ORANGE, GREEN)
        )
        width, height = self._size
        (HERE / name).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="DejaVu Sans, Arial, sans-serif" font-size="13">\n'
            f'<defs>{heads}</defs>\n<rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def layers() -> Sequence[Sequence[str]]:
    """Return the layers of the package, the top first, as the architecture test declares them."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "LAYERS":
            return ast.literal_eval(node.value)
    raise LookupError("tests/test_architecture.py declares no LAYERS")


def draw_layers() -> None:
    """Draw the layers: a room imports only from rooms below."""
    rows = layers()
    height, gap = 30, 9
    picture = Drawing(860, 44 + len(rows) * (height + gap))
    for k, row in enumerate(rows):
        y = 14 + k * (height + gap)
        width = (760 - (len(row) - 1) * 8) / len(row)
        for j, room in enumerate(row):
            picture.box(14 + j * (width + 8), y, width, height, room, BLUE)
    bottom = 14 + len(rows) * (height + gap)
    picture.arrow((800, 18), (800, bottom - 14))
    picture.text((800, bottom + 8), "imports", "middle")
    picture.write("layers.svg")


def draw_flow() -> None:
    """Draw the way of a curve through the service."""
    picture = Drawing(960, 300)
    stages = ("receive", "assemble", "prepare", "correct", "infer", "phase", "publish")
    hints = ("decode frames", "join angles", "mask, crop", "to lab axes", "network", "retrieve phase", "documents")
    for k, (stage, hint) in enumerate(zip(stages, hints, strict=True)):
        x = 14 + k * 134
        picture.box(x, 110, 116, 52, f"{stage}\n{hint}", BLUE)
        if k:
            picture.arrow((x - 18, 136), (x - 1, 136))
    picture.box(14, 16, 116, 44, "detector\nZeroMQ")
    picture.arrow((72, 60), (72, 109))
    picture.box(148, 16, 116, 44, "RunEngine\ndocuments")
    picture.arrow((206, 60), (206, 109))
    picture.box(818, 16, 116, 44, "bus, Tiled\nfiles")
    picture.arrow((876, 110), (876, 61))
    picture.text((600, 84), "first crystal, published at once", "middle", ORANGE)
    picture.arrow((608, 110), (608, 92), (840, 92), (840, 109), colour=ORANGE)
    picture.box(684, 222, 250, 52, "refinement\ndurable queue, worker processes", GREEN)
    picture.arrow((876, 162), (876, 221), colour=GREEN)
    picture.arrow((770, 222), (770, 190), (850, 190), (850, 163), colour=GREEN)
    picture.box(350, 222, 250, 52, "operators' page\nreads the feed, never blocks", GREEN)
    picture.arrow((742, 162), (742, 200), (475, 200), (475, 221), colour=GREEN, is_dashed=True)
    picture.write("flow.svg")


def draw_auto() -> None:
    """Draw the steps of the method auto."""
    picture = Drawing(860, 420)
    picture.box(280, 14, 300, 50, "1. explore\nrandom starts, middle of the diffraction", BLUE)
    picture.box(280, 100, 300, 50, "2. climb\nthe best go to finer grids, fewer at each", BLUE)
    picture.box(280, 186, 300, 50, "3. choose\nrefine without islands of voxels, rank", BLUE)
    picture.box(280, 272, 300, 50, "4. do the finalists agree?\nmean correlation at least 0.97, even inside", ORANGE)
    picture.box(280, 358, 300, 50, "5. finish\nall voxels; noise estimate; verdict", GREEN)
    for y in (64, 150, 236, 322):
        picture.arrow((430, y), (430, y + 35))
    picture.text((442, 344), "yes, or the time is over")
    picture.arrow((580, 297), (650, 297), (650, 39), (581, 39), colour=ORANGE)
    picture.text((660, 160), "no: again from", colour=ORANGE)
    picture.text((660, 177), "other random starts", colour=ORANGE)
    picture.box(14, 186, 210, 50, "known crystals\nfor example the network's", GREEN)
    picture.arrow((224, 211), (279, 211), colour=GREEN)
    picture.box(14, 14, 210, 50, "measurement\n5 % of the voxels held out")
    picture.arrow((224, 39), (279, 39))
    picture.write("auto.svg")


def draw_verdict() -> None:
    """Draw how two verdicts become one."""
    picture = Drawing(860, 220)
    picture.box(14, 20, 230, 52, "numbers of the crystal\nmisfit, agreement, noise, support", BLUE)
    picture.box(14, 140, 230, 52, "frames, angles, run\nlost, late, joined on a guess", ORANGE)
    picture.box(330, 20, 180, 52, "verdict_crystal\na table of rules", BLUE)
    picture.box(330, 140, 180, 52, "verdict_join\nany doubt: doubtful", ORANGE)
    picture.box(620, 80, 210, 52, "verdict\nthe worse of the two", GREEN)
    picture.arrow((244, 46), (329, 46))
    picture.arrow((244, 166), (329, 166))
    picture.arrow((510, 46), (565, 46), (565, 96), (619, 96))
    picture.arrow((510, 166), (565, 166), (565, 116), (619, 116))
    picture.write("verdict.svg")


def draw_axes() -> None:
    """Draw the lab axes, the scattering vectors and the pixel directions."""
    picture = Drawing(860, 300)
    picture.text((150, 24), "lab axes, seen downstream", "middle", is_bold=True)
    picture.arrow((150, 170), (150, 70), colour=BLUE)
    picture.text((160, 78), "y: up", colour=BLUE)
    picture.arrow((150, 170), (50, 170), colour=BLUE)
    picture.text((20, 196), "x: outboard, to the left", colour=BLUE)
    picture.path("M150,170 m-9,0 a9,9 0 1,0 18,0 a9,9 0 1,0 -18,0", BLUE, "white")
    picture.path("M144,164 L156,176 M156,164 L144,176", BLUE)
    picture.text((168, 176), "z: along the beam, away from you", colour=BLUE)

    picture.text((560, 24), "scattering, seen from above (y towards you)", "middle", is_bold=True)
    picture.arrow((420, 190), (560, 190))
    picture.text((470, 212), "k_i", "middle")
    picture.arrow((560, 190), (700, 190), is_dashed=True)
    picture.text((706, 194), "z")
    picture.arrow((560, 190), (662, 94))
    picture.arrow((790, 190), (790, 130), colour=BLUE)
    picture.text((790, 120), "x", "middle", BLUE)
    picture.text((596, 128), "k_f", "end")
    picture.arrow((700, 190), (662, 94), colour=ORANGE)
    picture.text((694, 140), "Q = k_f - k_i", colour=ORANGE)
    picture.path("M610,190 A50,50 0 0,0 597,156")
    picture.text((616, 178), "2 theta")
    picture.path("M548,182 l12,-9 l12,9 l0,16 l-12,9 l-12,-9 z", BLUE, SOFT)
    picture.text((560, 232), "crystal", "middle", BLUE)
    picture.text((430, 272), "F(q) = sum rho(r) exp(+i q.r): a crystal displaced by u has the phase +Q.u", "middle")
    picture.write("axes.svg")


def draw_detector() -> None:
    """Draw a frame with row direction y- and column direction x+, seen downstream."""
    picture = Drawing(860, 230)
    picture.text((220, 24), "detector, seen downstream, arm at zero", "middle", is_bold=True)
    picture.path("M120,44 h200 v140 h-200 z", INK, SOFT)
    picture.text((312, 62), "pixel (0, 0)", "end")
    picture.arrow((316, 72), (316, 150), colour=ORANGE)
    picture.text((328, 116), 'row_direction = "y-"', colour=ORANGE)
    picture.arrow((304, 72), (170, 72), colour=BLUE)
    picture.text((128, 96), 'col_direction = "x+"', colour=BLUE)
    picture.path("M214,126 m-4,0 a4,4 0 1,0 8,0 a4,4 0 1,0 -8,0", GREEN, GREEN)
    picture.text((214, 150), "beam_row, beam_col", "middle", GREEN)
    picture.text((560, 60), "array axes", "start", is_bold=True)
    for k, line in enumerate(("detector: [frame, row, column]", "lab: [z, y, x]", "origin: voxel N//2 on each axis")):
        picture.text((560, 86 + 22 * k), line)
    picture.write("detector.svg")


def draw_join() -> None:
    """Draw the order in which a series looks for its run."""
    picture = Drawing(860, 130)
    steps: Iterator[tuple[int, str]] = enumerate(
        (
            "the series names the run\nuser_data, header_appendix",
            "events name the series\nseries_id, sequence_id",
            "the only open run\nby time",
            "no run\nfailed, with the reason",
        )
    )
    for k, text in steps:
        x = 8 + 214 * k
        picture.box(x, 30, 200, 52, text, ORANGE if k == 3 else BLUE)
        if k:
            picture.arrow((x - 14, 56), (x - 1, 56))
            picture.text((x - 7, 108), "else", "middle")
    picture.write("join.svg")


def main() -> None:
    """Draw all pictures."""
    for draw in (draw_layers, draw_flow, draw_auto, draw_verdict, draw_axes, draw_detector, draw_join):
        draw()


if __name__ == "__main__":
    main()
