"""Read, run and write network files: TorchScript with a contract inside.  No other module runs TorchScript.

A network file is code.  `load` runs it only after `cdi_stream.networks.archive` has checked that it uses nothing but a
list of computing operators.  `cdi_stream.networks.trial` checks that its answer comes within a time limit.

torch marks TorchScript as deprecated; deploy/decisions/0003-torchscript.md explains why it stays for now.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError, NetworkFileError
from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.networks import archive
from cdi_stream.networks.cpu_pass import CpuPass, PassChoice, fastest
from cdi_stream.networks.cuda_graph import GraphPass, Pass
from cdi_stream.networks.precision import in_bfloat16

CONTRACT_FILE = "cdi_stream.json"
"""Name of the contract inside a network file."""

MAX_VOXELS = 512**3
"""Largest input or output of a network [voxels]; 512 MiB in single precision."""

MAX_FILE_BYTES = 2 << 30
"""Largest network file [bytes]."""

MAX_WEIGHTS = 500_000_000
"""Largest number of weights of a network; 2 GB in single precision, six hundred times the packaged networks."""

_READ_VALUES = ("Int", "Float", "Bool", "Complex", "item", "IntImplicit", "FloatImplicit", "ScalarImplicit")
"""Names of the operators that turn the value of a tensor into a number."""

_SIZES = {"prim::NumToTensor", "prim::Constant"}
_ARITHMETIC = {f"aten::{name}" for name in ("add", "div", "floor_divide", "mul", "remainder", "sub")}

_CHOICES: dict[tuple[str, int], PassChoice] = {}
"""Fastest way of each network, by the file's SHA-256 and the number of threads.

A network is measured once in a process: a second measurement may choose another way, and the last digits of the crystal
would change.
"""

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NetworkContract(BaseModel):
    """Contract of a network, stored in its file: input, output and conventions; unknown keys are ignored.

    Parameters
    ----------
    name, version
        Name and version of the network.
    input_shape, output_shape
        Shapes of the magnitudes and of the crystal [voxels].
    input_scaling
        Scaling of the magnitudes.
    oversampling
        Field of view over the crystal's longest extent that the network expects.
    phase_range_rad
        Largest span of the phase in the training crystals [rad].
    coordinates
        Axes of input and output.
    fourier_sign
        Sign of the exponent from crystal to reciprocal space.
    weights_sha256
        Hash of the weights, see `weights_sha256`.
    training
        One sentence on the training.
    sure_from
        Least agreement of the answers to mirror images at which the crystal is reliable; None: never reliable.  The
        command ``calibrate`` determines it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    version: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_scaling: Literal["magnitude, maximum 1"]
    oversampling: float = Field(gt=0, allow_inf_nan=False)
    phase_range_rad: NotNegative
    coordinates: Literal["lab"]
    fourier_sign: int
    weights_sha256: str
    training: str
    sure_from: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("input_shape", "output_shape")
    @classmethod
    def _within_limits(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in (2, 3) or min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
            raise ValueError(f"expected two or three axes, at most {MAX_VOXELS} voxels in all")
        return shape

    def is_sure(self, agreement: float) -> bool:
        """Return whether answers with this agreement are reliable."""
        return self.sure_from is not None and agreement >= self.sure_from


class Network:
    """A loaded network: magnitudes ``input_shape`` in, complex crystal ``output_shape`` out; a CUDA graph on a GPU.

    ``ways`` are passes whose answers are equally good, the fastest of which a CPU takes; a GPU takes the first.
    """

    def __init__(self, ways: Sequence[Pass], contract: NetworkContract, sha256: str, device: str) -> None:
        self.contract = contract
        self.sha256 = sha256
        self.device = device
        self._pass_of_one: Pass
        if torch.device(device).type == "cuda":
            self._pass, self._pass_of_one = ways[0], GraphPass(ways[0], contract.input_shape, device)
        else:
            measured = (sha256, torch.get_num_threads())
            if measured not in _CHOICES:
                _CHOICES[measured] = fastest(ways, contract.input_shape)
            pass_of_one = self._pass_of_one = CpuPass(ways, _CHOICES[measured])
            self._pass = pass_of_one.forward

    @property
    def lab_shape(self) -> tuple[int, int, int]:
        """Shape of the input volume [voxels].

        Raises
        ------
        NetworkFileError
            If the network is for images.
        """
        if len(self.contract.input_shape) != 3:
            raise NetworkFileError(
                f"network {self.contract.name}: expected one for volumes, got one for {self.contract.input_shape}; "
                "take another network file"
            )
        first, second, third = self.contract.input_shape
        return first, second, third

    @torch.inference_mode()
    def __call__(self, magnitude: Tensor) -> Tensor:
        """Return the complex crystal of one volume of magnitudes (maximum 1)."""
        self._require(magnitude.shape)
        amplitude, phase = self._pass_of_one(magnitude.to(self.device)[None])
        return torch.polar(amplitude[0].float(), phase[0].float())

    @torch.inference_mode()
    def batch(self, magnitudes: Tensor) -> Tensor:
        """Return the complex crystals of several volumes ``(batch, *input_shape)`` in one pass."""
        self._require(magnitudes.shape[1:])
        amplitude, phase = self._pass(magnitudes.to(self.device))
        return torch.polar(amplitude.float(), phase.float())

    def _require(self, shape: torch.Size) -> None:
        if tuple(shape) != self.contract.input_shape:
            raise NetworkFileError(
                f"network {self.contract.name}: expected magnitudes {self.contract.input_shape}, got {tuple(shape)}"
            )


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's state: each name in order, then its tensor's bytes as little-endian float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def round_to_half(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU with weights rounded to half precision, as a network file holds them."""
    return copy.deepcopy(network).cpu().half().float()


def export(network: nn.Module, contract: NetworkContract, path: Path) -> None:
    """Write a network in evaluation mode with its contract; weights are stored in half precision."""
    script = torch.jit.script(copy.deepcopy(network).cpu().eval().half())
    torch.jit.save(script, str(path), _extra_files={CONTRACT_FILE: _contract_text(contract)})


def rewrite_contract(path: Path, contract: NetworkContract, sha256: str) -> None:
    """Replace the contract in a network file; all other members stay unchanged.

    Parameters
    ----------
    path
        Network file; it is replaced as a whole.
    contract
        New contract.
    sha256
        Hash of the file's bytes when it was read.

    Raises
    ------
    NetworkFileError
        If the file has changed since it was read.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise NetworkFileError(f"{path}: expected the file as it was read, got a changed file: do it again")
    inside = archive.members(data, str(path))
    inside[f"extra/{CONTRACT_FILE}"] = _contract_text(contract).encode()
    with atomic_write(path) as part:
        part.write_bytes(archive.pack_members(inside))


def _contract_text(contract: NetworkContract) -> str:
    return contract.model_dump_json(indent=1, exclude_none=True)


class Trainable(nn.Module):
    """A network from a file with trainable weights; its normalisation stays in evaluation mode."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script.eval()
        for weight in script.parameters():
            weight.requires_grad_(True)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude and phase, with torch's derivatives, since TorchScript's fail on complex numbers."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            amplitude, phase = self.script(magnitude)
        return amplitude, phase


def load_trainable(path: Path, device: str = "cpu") -> Trainable:
    """Return a network from a file with trainable weights; raises `NetworkFileError` like `load`."""
    return Trainable(_read(path, device)[0])


def load(path: Path, device: str = "cpu") -> Network:
    """Return a network from a file, checked and warmed up.

    Raises
    ------
    NetworkFileError
        If there is no such file or no contract, if the Fourier sign differs from the project's, if the code holds more
        than a network needs, or if the output differs from the contract.
    ConfigError
        If ``device`` is not available.
    """
    script, contract, sha256 = _read(path, device)
    try:
        reduced = in_bfloat16(script) if torch.device(device).type == "cpu" else None
        ways = [torch.jit.optimize_for_inference(torch.jit.freeze(way.eval())) for way in (script, reduced) if way]
        network = Network(ways, contract, sha256, device)
        answer = network(torch.zeros(contract.input_shape))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # errors of the network's own code
        raise NetworkFileError(
            f"{path}: expected amplitude and phase {contract.output_shape} for magnitudes {contract.input_shape}, "
            f"got an error: {_last_line(error)}; take another network file"
        ) from error
    if tuple(answer.shape) != contract.output_shape:
        raise NetworkFileError(
            f"{path}: expected amplitude and phase {contract.output_shape} as its contract says, "
            f"got {tuple(answer.shape)}; export the network again"
        )
    return network


def _read(path: Path, device: str) -> tuple[torch.jit.ScriptModule, NetworkContract, str]:
    """Return script, contract and SHA-256 of a file; its code is checked before it runs."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: expected a GPU with CUDA, got none that torch can use; take 'cpu'")
    data = _bytes_of(path)
    inside = archive.members(data, str(path))
    if f"extra/{CONTRACT_FILE}" not in inside:
        raise NetworkFileError(
            f"{path}: expected TorchScript with {CONTRACT_FILE} inside, got TorchScript without it: save it with "
            f"_extra_files={{'{CONTRACT_FILE}': ...}}, see deploy/docs/explanation/network-files.md"
        )
    try:
        contract = NetworkContract.model_validate_json(inside[f"extra/{CONTRACT_FILE}"])
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise NetworkFileError(
            f"{path}: expected TorchScript with a valid {CONTRACT_FILE} inside, got {wrong}"
        ) from error
    if contract.fourier_sign != FOURIER_SIGN:
        raise NetworkFileError(
            f"{path}: expected fourier_sign {FOURIER_SIGN:+d}, got {contract.fourier_sign:+d}; "
            "train the network with the project's convention"
        )
    safe = archive.check_members(inside, str(path), _is_operator)
    try:
        script = torch.jit.load(io.BytesIO(safe), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise NetworkFileError(f"{path}: expected TorchScript that torch reads, got: {_last_line(error)}") from error
    _require_bounds(script, path)
    return script.float(), contract, hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise NetworkFileError(f"network file {path} does not exist; train one with 'cdi-stream train'")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise NetworkFileError(
            f"{path}: expected at most {MAX_FILE_BYTES >> 20} MiB, got {path.stat().st_size >> 20}; "
            "take a smaller network"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise NetworkFileError(f"network file {path} cannot be read: {error}") from error


def _is_operator(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))  # noqa: SLF001 - torch has no public way


def _require_bounds(script: torch.jit.ScriptModule, path: Path) -> None:
    """Raise an error if weights would fill the memory, or if the network's steps depend on measured values."""
    n_weights = sum(tensor.numel() for tensor in (*script.parameters(), *script.buffers()))
    if n_weights > MAX_WEIGHTS:
        raise NetworkFileError(
            f"{path}: expected at most {MAX_WEIGHTS} weights, got {n_weights}; take a smaller network"
        )
    graph = script.inlined_graph
    for name in _READ_VALUES:
        for node in graph.findAllNodes(f"aten::{name}"):  # type: ignore[attr-defined]
            if any(map(_is_measured, node.inputs())):
                raise NetworkFileError(
                    f"{path}: expected a network whose steps depend on the shape of its input alone, got {name} of a "
                    "tensor, as in 'if x.max() > 0' or x.item(): write it with torch.where or torch.clamp"
                )


def _is_measured(value: torch._C.Value) -> bool:
    """Return whether a tensor may depend on measured values; sizes, which traces hold as tensors, do not."""
    if value.type().kind() != "TensorType":
        return False
    users = {use.user.kind() for use in value.uses()}
    kind = value.node().kind()
    if not users <= _ARITHMETIC | {f"aten::{name}" for name in _READ_VALUES} or kind not in _SIZES | _ARITHMETIC:
        return True  # another operator may write into it, or made it
    return kind in _ARITHMETIC and any(map(_is_measured, value.node().inputs()))


def _last_line(error: Exception) -> str:
    """Return the last line of an error message of torch, which states the cause behind a trace."""
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
