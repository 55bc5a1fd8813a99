"""Network files are code: refused before anything of them runs, unless they only compute."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks import archive
from cdi_stream.networks.packaged import packaged_networks
from cdi_stream.networks.torchscript import CONTRACT_FILE, NetworkContract, _is_operator, export, load, rewrite_contract
from cdi_stream.networks.trial import require_answer

pytestmark = pytest.mark.usefixtures("one_thread")

CONTRACT = NetworkContract(
    name="small",
    version="1",
    input_shape=(8, 8, 8),
    output_shape=(8, 8, 8),
    input_scaling="magnitude, maximum 1",
    oversampling=2.0,
    phase_range_rad=3.2,
    coordinates="lab",
    fourier_sign=1,
    weights_sha256="none",
    training="none",
)


class Small(nn.Module):
    """A network of the right kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, magnitude):
        both = self.conv(magnitude[:, None])
        return torch.sigmoid(both[:, 0]), both[:, 1]


class Many(nn.Module):
    """A foreign network of the parts that are in use: norms, attention, transposed convolutions, Fourier transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.AvgPool3d(2))
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.inorm, self.act = nn.ConvTranspose3d(8, 4, 2, stride=2), nn.InstanceNorm3d(4), nn.PReLU()
        self.blocks = nn.ModuleList([nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular") for _ in range(2)])
        self.heads = nn.ModuleDict({"amplitude": nn.Conv3d(4, 1, 1), "phase": nn.Conv3d(4, 1, 1)})
        self.drop, self.elu = nn.Dropout3d(0.1), nn.ELU()

    def forward(self, magnitude):
        volume = self.down(torch.log1p(magnitude[:, None] * 300))
        b, c, d, h, w = volume.shape
        tokens = self.norm(volume.flatten(2).transpose(1, 2))
        tokens = tokens + self.linear(F.gelu(tokens)) + self.attention(tokens, tokens, tokens)[0]
        tokens = tokens + torch.einsum("bij,bkj->bik", tokens, tokens) @ tokens
        volume = self.act(self.inorm(self.up(tokens.transpose(1, 2).reshape(b, c, d, h, w))))
        for block in self.blocks:
            volume = volume + self.drop(self.elu(block(volume)))
        volume = F.max_pool3d(F.interpolate(volume, scale_factor=2.0, mode="trilinear"), 2)
        volume = F.pad(volume, (1, 1, 1, 1, 1, 1))[:, :, 1:-1, 1:-1, 1:-1].clamp(-5, 5).roll(1, -1)
        volume = torch.fft.ifftn(torch.fft.fftn(volume, dim=(-3, -2, -1)), dim=(-3, -2, -1)).real
        volume = torch.where(volume > 0, volume, volume * 0.5)
        return torch.sigmoid(self.heads["amplitude"](volume))[:, 0], self.heads["phase"](volume)[:, 0]


class WritesWhenRun(Small):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, magnitude):
        written = torch.from_file(self.path, True, 512, dtype=torch.uint8).fill_(65)
        return magnitude, written.reshape(1, 8, 8, 8).float()


class WritesWhenLoaded(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.n = path, torch.zeros(3)

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        self.n = torch.from_file(state[0], True, 512, dtype=torch.uint8).fill_(65)

    def forward(self, magnitude):
        return magnitude, magnitude


class Endless(nn.Module):
    def forward(self, magnitude):
        for _ in range(1_000_000_000_000_000):
            magnitude = magnitude * 0.5
        return magnitude, magnitude


class ReadsValues(nn.Module):
    def forward(self, magnitude):
        for _ in range(int(magnitude.sum() * 1e9)):
            magnitude = magnitude * 0.5
        return magnitude, magnitude


class AnswersOnce(nn.Module):
    def forward(self, magnitude):
        return magnitude


class Hungry(nn.Module):
    def forward(self, magnitude):
        much = torch.ones([1_000_000, 1_000_000])
        return magnitude + much.sum(), magnitude


class Waits(nn.Module):
    def forward(self, magnitude):
        while bool(magnitude.sum() >= 0):
            magnitude = magnitude * 0.5
        return magnitude, magnitude


def saved(network: nn.Module, path: Path, contract: NetworkContract = CONTRACT) -> Path:
    script = torch.jit.script(network.eval())
    torch.jit.save(script, str(path), _extra_files={CONTRACT_FILE: contract.model_dump_json()})
    return path


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    export(Small(), CONTRACT, tmp_path / "small.pt")
    return tmp_path / "small.pt"


def changed(path: Path, old: str, new: str, member: str = "test_network_files.py") -> Path:
    """The file with another text in its code, as somebody writes who does not go by way of torch."""
    inside = archive.members(path.read_bytes(), str(path))
    name = next(name for name in inside if name.endswith(member))
    assert old.encode() in inside[name]
    inside[name] = inside[name].replace(old.encode(), new.encode())
    path.write_bytes(archive.pack_members(inside))
    return path


@pytest.mark.parametrize("name", packaged_networks())
def test_the_networks_of_the_package_pass(name):
    inside = archive.members(packaged_networks()[name].read_bytes(), name)
    assert archive.check_members(inside, name, _is_operator).startswith(b"PK")


def test_a_fresh_network_passes_and_answers(small):
    answer = load(small)(torch.rand(8, 8, 8))
    assert answer.shape == (8, 8, 8)
    assert answer.abs().max() < 1
    require_answer(small)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", ["scripted", "traced"])
def test_a_foreign_network_of_common_parts_passes(tmp_path, way):
    network = Many().eval()
    made = (
        torch.jit.script(network)
        if way == "scripted"
        else torch.jit.trace(network, torch.rand(1, 8, 8, 8), check_trace=False)
    )
    torch.jit.save(made, str(tmp_path / "many.pt"), _extra_files={CONTRACT_FILE: CONTRACT.model_dump_json()})
    volume = torch.rand(8, 8, 8)
    with torch.inference_mode():
        expected = torch.polar(*network(volume[None]))[0]
    torch.testing.assert_close(load(tmp_path / "many.pt")(volume), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "named"), [(WritesWhenRun, ("torch.from_file",)), (WritesWhenLoaded, ("__setstate__", "torch.from_file"))]
)
def test_a_network_that_writes_a_file_is_refused_and_nothing_is_written(tmp_path, kind, named):
    target = tmp_path / "written"
    path = saved(kind(str(target)), tmp_path / "attack.pt")
    with pytest.raises(NetworkFileError, match="nothing in it was run") as caught:
        load(path)
    assert all(name in str(caught.value) for name in named)
    assert not target.exists()
    torch.jit.load(str(path))(torch.zeros(1, 8, 8, 8))  # the attack is real
    assert target.exists()


SIGMOID = "torch.sigmoid("
HIDDEN = {
    "another module": ("ops.aten.from_file(", "ops.aten.from_file"),
    "saving": ("torch.save(", "torch.save"),
    "a method of a text": ('"/etc/passwd".from_file(', ".from_file"),
    "getattr": ('getattr(both, "from_file")(', "getattr(both, 'from_file')"),
    "a name for torch": ("(torch if True else torch).from_file(", "torch"),
    "a custom class": ("__torch__.torch.classes.made.up(", "__torch__.torch.classes.made.up"),
    "printing": ("print(", "print"),
    "forking": ("fork(", "fork"),
    "a comprehension": ("[x for x in [both]][0].sigmoid(", "listcomp"),
    "a lambda": ("(lambda x: x)(", "lambda"),
}


@pytest.mark.parametrize(("code", "named"), HIDDEN.values(), ids=HIDDEN)
def test_code_that_hides_an_operator_is_refused_by_its_name(small, code, named):
    with pytest.raises(NetworkFileError, match="nothing in it was run") as caught:
        load(changed(small, SIGMOID, code))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import os", "import"),
        ("while True:\n      pass", "while"),
        ("self.training = False", "self.training = ..."),
        ("torch = ops.prim", "torch as a name"),
        ("x = torch\n    x.from_file()", "torch"),
        ("assert False", "assert"),
        ("x = ops.prim", "ops.prim"),
        ("x = __torch__.torch", "__torch__.torch"),
        ("pass  # torch.from_file", "no plain Python"),
        ('x = "\\x00"', "no plain Python"),
        ('x = r"a"', "no plain Python"),
        ("x = 'a'", "no plain Python"),
        ("f(", "no plain Python"),
        ("pass\f", "no plain Python"),
    ],
)
def test_a_statement_that_no_network_needs_is_refused(small, line, named):
    with pytest.raises(NetworkFileError, match="nothing in it was run") as caught:
        load(changed(small, "    conv = self.conv\n", f"    {line}\n    conv = self.conv\n"))
    assert named in str(caught.value)


def test_a_class_that_is_no_module_is_refused(small):
    with pytest.raises(NetworkFileError, match="class Small that is no Module"):
        load(changed(small, "class Small(Module)", "class Small(NamedTuple)"))


def test_a_pickle_that_asks_for_more_is_refused_without_being_loaded(small, tmp_path):
    class Opens:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    inside = archive.members(small.read_bytes(), "small")
    for member in ("data.pkl", "constants.pkl"):
        small.write_bytes(archive.pack_members(inside | {member: pickle.dumps(Opens(), protocol=2)}))
        with pytest.raises(NetworkFileError, match=r"pickled .* open"):
            load(small)
    assert not (tmp_path / "written").exists()


def zipped(content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        for name, text in content.items():
            file.writestr(name, text)
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"weights = 3\n", "zip archive, got something else"),
        (b"", "zip archive, got something else"),
        (zipped({"a/readme": b"text"}), "archive without data.pkl"),
        (zipped({"a/data.pkl": b"N.", "b/version": b"3"}), "one folder with one member of each name"),
        (zipped({"a/data.pkl": b"N.", "a/version": b"3"}), "TorchScript without it"),
    ],
)
def test_a_file_that_is_no_network_is_refused_in_our_words(tmp_path, content, words):
    path = tmp_path / "network.pt"
    path.write_bytes(content)
    with pytest.raises(NetworkFileError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_member_is_refused(small):
    inside = archive.members(small.read_bytes(), "small")
    small.write_bytes(archive.pack_members(inside | {"code/evil.so": b"\x7fELF"}))
    with pytest.raises(NetworkFileError, match=r"member 'code/evil\.so'"):
        load(small)


def test_an_archive_that_would_fill_the_memory_is_refused_by_its_stated_sizes(tmp_path, monkeypatch):
    path = tmp_path / "bomb.pt"
    path.write_bytes(zipped({"a/data.pkl": b"N.", "a/version": b"3", "a/data/0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 16
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 22)
    with pytest.raises(NetworkFileError, match=r"4 MiB unpacked .* got 3, 16 MiB"):
        load(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"input_shape": (100_000, 100_000, 100_000)}, "input_shape: .*at most 134217728 voxels"),
        ({"input_shape": ()}, "input_shape: .*two or three axes"),
        ({"oversampling": float("nan")}, "oversampling"),
        ({"output_shape": (4, 4, 4)}, r"amplitude and phase \(4, 4, 4\) as its contract says, got \(8, 8, 8\)"),
        ({"input_shape": (8, 8)}, r"for magnitudes \(8, 8\), got an error"),
    ],
)
def test_a_contract_that_is_absurd_or_not_kept_is_refused(tmp_path, wrong, words):
    path = saved(Small(), tmp_path / "small.pt", CONTRACT.model_construct(**(CONTRACT.model_dump() | wrong)))
    with pytest.raises(NetworkFileError, match=words):
        load(path)


def test_a_network_that_answers_something_else_is_refused(tmp_path):
    with pytest.raises(NetworkFileError, match="expected amplitude and phase"):
        load(saved(AnswersOnce(), tmp_path / "once.pt"))


def test_a_network_whose_steps_depend_on_what_is_measured_is_refused(tmp_path):
    with pytest.raises(NetworkFileError, match="depend on the shape of its input alone, got Int of a tensor"):
        load(saved(ReadsValues(), tmp_path / "reads.pt"))
    with pytest.raises(NetworkFileError, match="while"):
        load(saved(Waits(), tmp_path / "waits.pt"))


def test_a_size_in_disguise_that_is_written_over_is_refused(small):
    hidden = """    n = ops.prim.NumToTensor(3)
    _9 = torch.copy_(n, torch.sum(magnitude))
    magnitude = torch.mul(magnitude, torch.Int(n))
    conv = self.conv
"""
    with pytest.raises(NetworkFileError, match="got Int of a tensor"):
        load(changed(small, "    conv = self.conv\n", hidden))


def test_a_network_that_never_answers_is_refused_within_the_limit(tmp_path):
    with pytest.raises(NetworkFileError, match="expected an answer within 4 s, got none"):
        require_answer(saved(Endless(), tmp_path / "endless.pt"), limit_s=4.0)


def test_a_network_that_fills_the_memory_is_refused(tmp_path):
    with pytest.raises(NetworkFileError, match="memory"):
        require_answer(saved(Hungry(), tmp_path / "hungry.pt"))


def test_the_trial_passes_on_why_a_file_is_refused(tmp_path):
    (tmp_path / "network.pt").write_text("text")
    with pytest.raises(NetworkFileError, match="zip archive, got something else"):
        require_answer(tmp_path / "network.pt")


def test_another_contract_leaves_the_rest_of_a_file_as_it_was(small):
    before = archive.members(small.read_bytes(), "before")
    rewrite_contract(small, CONTRACT.model_copy(update={"sure_from": 0.9}), load(small).sha256)
    after = archive.members(small.read_bytes(), "after")
    assert {name for name in before if before[name] != after[name]} == {"extra/cdi_stream.json"}
    assert load(small).contract.sure_from == 0.9
