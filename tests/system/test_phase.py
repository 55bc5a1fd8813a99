"""The command that phases a file, as a user runs it: formats, the last line, the object, exit codes, time."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest
import torch

from cdi_stream import cli
from cdi_stream.cli import phasing
from cdi_stream.files.recording import write_scan
from cdi_stream.phasing.align import align
from tests.bench.crystals import Case, crystal, measured
from tests.system.command_line import last_line, run
from tests.unit.test_blemishes import ideal
from tests.unit.test_intensities import scan, write_series

CASE = Case(seed=2, kind="superellipsoid", phase_pi=1, n=24)
AMPLE = ("--budget", 600)
"""More time than the search of a small volume takes anywhere: it ends when its starts agree."""
QUICK = "SW[every=10,after=20,threshold=0.3,relative=rms,sigma=0.7]+80*HIO+20*ER"
CONTRACT_KEYS = {
    "chi2", "r_p", "free_llk", "verdict", "reasons", "seconds", "ms_per_cycle", "cycles", "method", "recipe", "starts",
    "seed", "device",
}  # fmt: skip


def counts(case: Case = CASE) -> np.ndarray:
    return measured(case, crystal(case))[0]


def cut(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels about the origin."""
    return array[tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(array.shape, shape, strict=True))]


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def phase(*arguments: object, code: int = 0) -> dict[str, Any]:
    """Run the command in a process of its own; return its last line."""
    done = run("phase", *map(str, arguments), "--json")
    assert done.returncode == code, done.stderr
    return last_line(done)


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """Run the command in this process, which saves its start: exit code, last line, message.

    The object goes to the test's own folder where no place is named.
    """

    def command(*arguments: object) -> tuple[int, dict[str, Any], str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(phasing, "BEGIN_S", time.monotonic())
        monkeypatch.setattr("sys.argv", ["cdi-stream", "phase", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return (
            int(end.value.code or 0),
            json.loads(out.strip().splitlines()[-1] if out else "{}"),
            " ".join(err.split()),
        )

    return command


def check_object(out: Path, shown: dict[str, Any], data: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The file holds what the last line says, by a transform of our own."""
    with np.load(out, allow_pickle=False) as file:
        found, support, sign = file["object"], file["support"], int(file["fourier_sign"])
    assert (found.dtype, found.shape) == (np.complex64, data.shape)
    assert (support.dtype, support.shape) == (bool, data.shape)
    assert sign == 1
    valid = np.ones(data.shape, dtype=bool) if valid is None else valid
    model = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(found.astype(complex)))))[valid]
    magnitude = np.sqrt(data.astype(float))[valid]
    scale = (model @ magnitude) / (model @ model)
    residual = ((scale * model - magnitude) ** 2).sum() / (magnitude**2).sum()
    assert shown["chi2"] == pytest.approx(residual, rel=1e-4)
    assert shown["r_p"] == pytest.approx(np.corrcoef(model, magnitude)[0, 1], rel=1e-4)
    return found


def test_a_good_crystal_by_default(tmp_path):
    data, out = counts(), tmp_path / "new" / "out.npz"
    shown = phase(saved(tmp_path / "a.npy", data), "--out", out, *AMPLE)
    assert shown.keys() >= CONTRACT_KEYS
    assert (shown["verdict"], shown["reasons"]) == ("good", [])
    assert (shown["method"], shown["seed"], shown["device"]) == ("auto", 1, "cpu")
    assert shown["starts"] >= 16
    assert shown["ms_per_cycle"] * shown["cycles"] < 1e3 * shown["seconds"]
    assert math.isfinite(shown["free_llk"])
    check_object(out, shown, data)


def test_a_roll_is_a_phase_ramp_and_nothing_else(tmp_path):
    """Odd lengths, so that the array is padded inside."""
    data, steps = cut(counts(), (24, 23, 21)), (5, -9, 8)
    mask = np.ones(data.shape, dtype=np.uint8)
    mask[:, 16] = 0
    found, shown = [], []
    for name, shift in (("a", (0, 0, 0)), ("b", steps)):
        file, out = tmp_path / f"{name}.npz", tmp_path / f"{name}.out.npz"
        rolled, kept = (np.roll(array, shift, (0, 1, 2)) for array in (data, mask))
        np.savez(file, data=rolled, mask=kept)
        shown.append(phase(file, "--out", out, "--method", "recipe", "--recipe", QUICK, "--starts", 2))
        found.append(check_object(out, shown[-1], rolled, kept == 1))
    grid = np.stack(np.indices(data.shape), -1) - np.array(data.shape) // 2
    ramp = np.exp(-2j * np.pi * (grid / np.array(data.shape)) @ np.array(steps))
    largest = np.abs(found[0]).max()
    np.testing.assert_allclose(np.abs(found[1]), np.abs(found[0]), atol=1e-3 * largest)
    np.testing.assert_allclose(found[1], found[0] * ramp, atol=1e-3 * largest)
    assert shown[0]["verdict"] == shown[1]["verdict"]
    assert shown[0]["starts"] == 2
    assert shown[0]["cycles"] == 2 * 100


def test_two_axes_and_the_same_bytes_for_the_same_seed(tmp_path, here):
    """The middle plane of the diffraction is that of the crystal's projection."""
    objects = []
    data = cut(measured(replace(CASE, photons=1e7), crystal(CASE))[0][CASE.n // 2], (23, 24))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / f"{name}.npz"
        code, shown, _ = here(saved(tmp_path / "a.npy", data), "--out", out, "--seed", seed, *AMPLE)
        assert code == 0
        objects.append(check_object(out, shown, data).tobytes())
    assert objects[0] == objects[1] != objects[2]


def test_cxi_with_its_mask(tmp_path):
    data, out = counts().astype(np.uint32), tmp_path / "out.npz"
    bad = np.zeros(data.shape[1:], dtype=np.uint32)
    bad[3] = 512
    with h5py.File(tmp_path / "a.cxi", "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"], detector["mask"] = data, bad
        file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    shown = phase(tmp_path / "a.cxi", "--out", out, "--method", "recipe", "--recipe", QUICK)
    check_object(out, shown, data, np.broadcast_to(bad == 0, data.shape))
    assert (shown["method"], shown["recipe"]) == ("recipe", QUICK)


@pytest.mark.parametrize("method", ["network", "hybrid"])
def test_a_network(tmp_path, method):
    data, out = counts(), tmp_path / "out.npz"
    done = run(
        "phase", str(saved(tmp_path / "a.npy", data)), "--method", method, "--budget", "4", "--out", str(out), "--json"
    )
    shown = last_line(done)
    assert done.returncode == (3 if shown["verdict"] == "failed" else 0)
    check_object(out, shown, data)
    assert shown["r_p"] > 0.7


def test_units_change_nothing(tmp_path, here):
    """Intensities over their maximum are as good as counts."""
    data = counts()
    shown = [here(saved(tmp_path / "a.npy", array), *AMPLE)[1] for array in (data, data / data.max())]
    for one in shown:
        assert one["verdict"] == "good"
    assert shown[0]["chi2"] == pytest.approx(shown[1]["chi2"], rel=0.05)
    assert "units of their own" in shown[1]["reasons"][0]


SHAPE = (24, 24, 24)
QUICKLY = ("--method", "recipe", "--recipe", QUICK)


def far(truth: np.ndarray, out: Path) -> float:
    """How far the object of a file is from the crystal, as NMSE."""
    with np.load(out, allow_pickle=False) as file:
        return 1 - align(torch.from_numpy(truth), torch.from_numpy(file["object"])).correlation ** 2


@pytest.mark.parametrize("name", ["far", "next to the peak", "row"])
def test_a_hot_voxel_changes_nothing_and_is_told(tmp_path, here, name):
    """Without cleaning the crystal is lost; NMSE is 0.93 with one hot voxel far off."""
    places = {
        "far": [(3, 20, 9)],
        "next to the peak": [(17, 16, 16)],
        "row": [(slice(None), 5, 7)],
    }[name]
    case = replace(CASE, n=32)
    data, hot = counts(case), np.zeros((32,) * 3, dtype=bool)
    for place in places:
        hot[place] = True
    out = tmp_path / "o.npz"
    code, shown, _ = here(saved(tmp_path / "a.npy", np.where(hot, 1e7, data)), "--out", out, *AMPLE)
    assert code == 0
    assert far(crystal(case), out) < 0.1
    assert shown["chi2_cleaned"] < 0.03 < 0.5 < shown["chi2"]
    check_object(out, shown, np.where(hot, 1e7, data))
    first = tuple(np.argwhere(hot)[0].tolist())
    assert f"cleaning masked {hot.sum()} hot voxel" in shown["reasons"][-1]
    assert f"at {first}" in shown["reasons"][-1]


def test_cleaning_can_be_switched_off(tmp_path, here):
    data = counts()
    data[3, 20, 9] = 1e7
    _, shown, _ = here(saved(tmp_path / "a.npy", data), "--no-cleaning", *QUICKLY)
    assert shown["chi2_cleaned"] == shown["chi2"]
    assert shown["r_p"] < 0.9
    assert not [reason for reason in shown["reasons"] if "hot" in reason]


@pytest.mark.parametrize("shape", [(24, 24, 24), (40, 40)])
@pytest.mark.parametrize("oversampling", [1.2, 2.0])
def test_the_peak_of_ideal_and_barely_oversampled_patterns_stays(tmp_path, here, shape, oversampling):
    data = ideal(shape[0], len(shape), oversampling, "octahedron", 0.5)
    _, shown, _ = here(saved(tmp_path / "a.npy", data), *QUICKLY)
    assert shown["chi2_cleaned"] == shown["chi2"]
    assert not [reason for reason in shown["reasons"] if "masked" in reason]


def test_a_mask_of_the_other_convention_is_refused(tmp_path, here):
    bad = np.zeros(SHAPE, dtype=np.uint8)
    bad[:, 3] = 1
    file = saved(tmp_path / "a.npy", counts())
    code, _, message = here(file, "--mask", saved(tmp_path / "m.npy", bad), *QUICKLY)
    assert code == 2
    assert "the mask removes the peak at (1" in message
    assert "it looks inverted (1 = bad?)" in message
    assert here(file, "--mask", saved(tmp_path / "m.npy", 1 - bad), *QUICKLY)[0] == 0


def test_the_object_is_kept_in_this_folder_and_never_overwritten(tmp_path, here):
    (tmp_path / "raw").mkdir()
    file = saved(tmp_path / "raw" / "gold.npy", counts())
    files = [Path(here(file, *QUICKLY)[1]["file"]) for _ in range(3)]
    assert files == [tmp_path / f"gold_object{dot}.npz" for dot in ("", ".1", ".2")]
    assert len({one.stat().st_ino for one in files}) == 3
    assert [one.name for one in (tmp_path / "raw").iterdir()] == ["gold.npy"]


@pytest.mark.parametrize("name", ["x.h5", "x.npy", "x.cxi", "x"])
def test_another_format_than_is_written_is_refused(tmp_path, here, name):
    code, _, message = here(saved(tmp_path / "a.npy", counts()), "--out", tmp_path / name, *QUICKLY)
    assert code == 2
    assert "expected a name that ends in .npz" in message
    assert not (tmp_path / name).exists()


def test_a_scan_or_a_geometry_is_refused_where_there_is_none(tmp_path, here):
    file = saved(tmp_path / "a.npy", counts())
    code, _, message = here(file, "--scan", 3, *QUICKLY)
    assert (code, "expected a file or folder of scans" in message) == (2, True)
    code, _, message = here(file, "--config", configured(tmp_path), *QUICKLY)
    assert (code, "which has none" in message) == (2, True)


def configured(folder: Path) -> Path:
    """A configuration whose beamline is 34-ID-C, with a detector twice as far."""
    path = folder / "beamline.toml"
    path.write_text(
        '[detector]\nendpoint = "tcp://127.0.0.1:1"\n[documents]\nsubscribe = "127.0.0.1:2"\n'
        'publish = "127.0.0.1:3"\n[geometry]\nbeamline = "aps_34idc"\ndistance_m = 1.0\n'
    )
    return path


def test_a_configuration_places_the_frames_of_a_scan(tmp_path, here):
    write_scan(scan(), tmp_path / "scan.h5")
    own, given = (here(tmp_path / "scan.h5", *QUICKLY, *more)[1] for more in ((), ("--config", configured(tmp_path))))
    pair = [np.array(shown["voxel_size_nm"]) for shown in (own, given)]
    np.testing.assert_allclose(
        pair[1][1:] / pair[0][1:], 2.0, rtol=0.02
    )  # rows and columns; the scan's angle is as it was
    assert given["voxel_size_lab_nm"] > own["voxel_size_lab_nm"]
    assert len(given["size_lab_nm"]) == 3
    (tmp_path / "beamline.toml").write_text(configured(tmp_path).read_text().replace("aps_34idc", "esrf_id01"))
    code, _, message = here(tmp_path / "scan.h5", "--config", tmp_path / "beamline.toml", *QUICKLY)
    assert code == 2
    assert "the geometry of --config does not fit" in message


@pytest.mark.parametrize("shape", [SHAPE, (24, 24), "scan"])
def test_a_picture_is_drawn(tmp_path, here, shape):
    file, picture = tmp_path / "scan.h5", tmp_path / "a.png"
    if shape == "scan":
        write_scan(scan(), file)
    else:
        file = saved(tmp_path / "a.npy", counts() if len(shape) == 3 else counts()[12])
    here(file, "--plot", picture, *QUICKLY)
    image = matplotlib.image.imread(picture)
    assert image.shape[0] > 600
    assert image.std() > 0.1
    code, _, message = here(file, "--plot", tmp_path / "a.npy" / "a.png", *QUICKLY)
    if shape != "scan":
        assert (code, "--plot" in message) == (2, True)


def test_people_get_a_table_with_units_and_few_digits(tmp_path, capsys, monkeypatch):
    write_scan(scan(), tmp_path / "scan.h5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(phasing, "BEGIN_S", time.monotonic())
    monkeypatch.setattr("sys.argv", ["cdi-stream", "phase", "scan.h5", *QUICKLY])
    with pytest.raises(SystemExit):
        cli.main()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    rows = {line.split()[0]: line for line in lines if line}
    assert re.match(r"chi2 0\.\d{1,6} misfit to the measured magnitudes", rows["chi2"])
    assert re.match(r"voxel_size [\d.]+ x [\d.]+ x [\d.]+ nm ", rows["voxel_size"])
    assert re.match(r"seconds [\d.]+ s ", rows["seconds"])
    assert "scan_object.npz" in "".join(lines[-3:]).replace(" ", "")
    assert "chi2_cleaned" not in rows  # nothing was masked


def test_one_of_many_starts_is_not_called_a_single_one(tmp_path, here):
    data = counts(Case(seed=3, kind="polyhedron", phase_pi=3, n=64))
    _, shown, _ = here(saved(tmp_path / "a.npy", data), "--budget", 3)
    assert shown["starts"] > 1
    assert not [reason for reason in shown["reasons"] if "a single start" in reason]


RNG = np.random.default_rng(7)
LIT = np.zeros(SHAPE)
LIT[12, 12, 12] = 1e4
REFUSED = {
    "zeros": (np.zeros(SHAPE), "check shutter"),
    "nan": (np.full(SHAPE, np.nan), "all of them masked"),
    "negative": (-counts() - 1, "below zero"),
    "one voxel": (LIT, "one lit voxel"),
    "constant": (np.full(SHAPE, 7), "7 everywhere"),
    "one axis": (np.ones(24), "2 or 3 axes"),
    "four axes": (np.ones((1, *SHAPE)), "2 or 3 axes"),
    "complex": (crystal(CASE), "give intensities, not amplitudes"),
    "text": (np.full((8, 8), "a"), "real numbers"),
    "too short": (np.ones((7, 24, 24)), "at least 8 voxels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_phased_is_refused_with_a_remedy(tmp_path, here, name):
    array, words = REFUSED[name]
    code, shown, message = here(saved(tmp_path / "a.npy", array), "--out", tmp_path / "out.npz")
    assert code == 2, shown
    assert words in message
    assert not (tmp_path / "out.npz").exists()


def test_files_and_masks_that_cannot_be_read_are_refused(tmp_path, here):
    good, text = saved(tmp_path / "good.npy", counts()), tmp_path / "text.npy"
    text.write_text("hello")
    (tmp_path / "half.npy").write_bytes(good.read_bytes()[:9000])
    np.savez(tmp_path / "masked.npz", data=counts(), mask=np.zeros(SHAPE))
    mask = saved(tmp_path / "mask.npy", np.ones((23, 24, 24)))
    for arguments, words in (
        ([tmp_path / "absent.npy"], "does not exist"),
        ([text], "save the array as npy"),
        ([tmp_path / "half.npy"], "cut short"),
        ([tmp_path / "masked.npz"], "all of them masked"),
        ([good, "--mask", text], "is it the right file?"),
        ([good, "--mask", mask], "got (23, 24, 24)"),
        ([good, "--mask", saved(tmp_path / "grey.npy", RNG.random(SHAPE))], "got other values"),
    ):
        code, _, message = here(*arguments)
        assert code == 2
        assert words in message


def test_one_of_several_scans_is_phased(tmp_path, here):
    first, second = scan().frames, scan().frames[:, ::-1]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        write_series(file, (first, second))
    quick = ("--method", "recipe", "--recipe", "5*ER", "--out", tmp_path / "object.npz")
    code, line, _ = here(tmp_path / "scan.h5", "--scan", 1, *quick)
    alone = here(saved(tmp_path / "second.npy", second), *quick)[1]
    assert code in (0, 3)
    assert line["chi2"] == pytest.approx(alone["chi2"], rel=0.1)
    code, _, message = here(tmp_path / "scan.h5", "--scan", 7, *quick)
    assert code == 2
    assert "7" in message


def test_bad_usage_ends_at_once(tmp_path, here):
    good, flat = saved(tmp_path / "good.npy", counts()), saved(tmp_path / "flat.npy", counts()[12])
    for arguments, words in (
        ([good, "--recipe", "50*ER+9*XX"], "'9*XX'"),
        ([good, "--method", "recipe", "--recipe", "50*ER+9*HIO[beta=a]"], "'9*HIO[beta=a]'"),
        ([flat, "--method", "network"], "use auto, recipe or object"),
        ([flat, "--method", "hybrid"], "use auto, recipe or object"),
        ([good, "--method", "hybrid", "--network", good], "in TorchScript"),
        ([good, "--method", "best"], "'best'"),
        ([good, "--budget", "0"], "--budget"),
        ([good, "--budget", "inf"], "--budget"),
        ([good, "--budget", "nan"], "--budget"),
        ([good, "--seed", 10**15], "--seed"),
        ([good, "--starts", 0], "--starts"),
        ([good, "--out", good / "out.npz", "--method", "recipe", "--recipe", "1*ER"], "choose another place"),
    ):
        code, _, message = here(*arguments)
        assert code == 2
        assert words in message


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What has no crystal in it."""
    rng = np.random.default_rng(5)
    middle = tuple(n // 2 for n in shape)
    grid = sum((x - m) ** 2 for x, m in zip(np.indices(shape), middle, strict=True))
    found = {
        "flat": lambda: rng.poisson(5.0, shape),
        "bright voxel": lambda: np.where(grid == 0, 1e5, rng.poisson(5.0, shape)),
        "white": lambda: rng.random(shape),
        "white with a bright voxel": lambda: np.where(grid == 0, 1e4, rng.random(shape)),
        "speckle": lambda: rng.poisson(rng.exponential(1e3, shape)),
        "speckle in a peak": lambda: rng.poisson(1e4 * np.exp(-grid / 18) * rng.exponential(1.0, shape)),
        "too large a crystal": lambda: rng.poisson(np.abs(np.fft.fftn(rng.normal(size=shape))) ** 2 / 50),
    }
    return found[name]()


NOISE = [
    "flat", "bright voxel", "white", "white with a bright voxel", "speckle", "speckle in a peak", "too large a crystal",
]  # fmt: skip


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_never_called_good(tmp_path, here, name):
    """By a recipe; `test_auto` asks the same of a search, and the slow tests of a long one."""
    file = saved(tmp_path / "a.npy", noise(name, (16, 18, 17)))
    code, shown, _ = here(file, *QUICKLY, "--starts", 8)
    assert shown["verdict"] in ("doubtful", "failed")
    assert code == (3 if shown["verdict"] == "failed" else 0)
    assert shown["reasons"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--method", "recipe", "--starts", "20"), ()])
@pytest.mark.parametrize("shape", [(32, 33, 30), (64, 62), (40, 40)])
@pytest.mark.parametrize("name", NOISE)
def test_noise_is_never_called_good_however_long(tmp_path, here, name, shape, arguments):
    _, shown, _ = here(saved(tmp_path / "a.npy", noise(name, shape)), "--budget", 20, *arguments)
    assert shown["verdict"] in ("doubtful", "failed")


@pytest.mark.parametrize("change", ["clipped", "amplitudes", "tiny", "odd"])
def test_what_is_not_quite_right_is_told(tmp_path, here, change):
    data = counts()
    array, words = {
        "clipped": (np.minimum(50 * data, 65535).astype(np.uint16), "the peak is saturated"),
        "amplitudes": (np.sqrt(data), "no whole numbers"),
        "tiny": (cut(data, (8, 8, 8)), ""),
        "odd": (cut(counts(Case(seed=2, kind="polyhedron", phase_pi=1, n=40)), (33, 40, 37)), ""),
    }[change]
    code, shown, _ = here(saved(tmp_path / "a.npy", array), *QUICKLY)
    assert code in (0, 3)
    assert words in " ".join(shown["reasons"])
    if change in ("clipped", "amplitudes"):
        assert shown["verdict"] != "good"


METHODS = [("auto",), ("recipe", "--starts", 100), ("object",), ("network",), ("hybrid",)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=[method[0] for method in METHODS])
def test_the_budget_binds_every_method(tmp_path, method):
    file = saved(tmp_path / "a.npy", counts(Case(seed=3, kind="polyhedron", phase_pi=3, n=64)))
    begin_s = time.monotonic()
    done = run(
        "phase", str(file), "--budget", "5", "--out", str(tmp_path / "o.npz"), "--json", "--method", *map(str, method)
    )
    wall_s, shown = time.monotonic() - begin_s, last_line(done)
    assert shown["seconds"] < 5 * 1.5
    assert wall_s < 5 * 1.5 + 2
    assert (tmp_path / "o.npz").exists()
