"""Network files: TorchScript with its contract inside.  The only module that runs TorchScript.

A network file is code.  `load` runs it only after `cdi_stream.networks.archive` found nothing in it beyond a list of
operators that compute; `cdi_stream.networks.trial` shows that its answer comes within a limit.

torch marks TorchScript as deprecated; see deploy/decisions/0003-torchscript.md for why it stays for now.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError, NetworkFileError
from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.networks import archive
from cdi_stream.networks.cuda_graph import Pass, Recorded

CONTRACT_FILE = "cdi_stream.json"
MAX_VOXELS = 512**3
"""Largest array of a network [voxels]; 512 MiB in single precision."""

MAX_FILE_BYTES = 2 << 30
MAX_WEIGHTS = 500_000_000
"""Most numbers in a network: 2 GB in single precision, six hundred times the package's own."""

_READ_VALUES = ("Int", "Float", "Bool", "Complex", "item", "IntImplicit", "FloatImplicit", "ScalarImplicit")
"""Operators that turn the value of a tensor into a number."""

_SIZES = {"prim::NumToTensor", "prim::Constant"}
_ARITHMETIC = {f"aten::{name}" for name in ("add", "div", "floor_divide", "mul", "remainder", "sub")}

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NetworkContract(BaseModel):
    """What a network expects and returns, written into its file; what else a file says there is not read.

    ``sure_from``, which ``cdi-stream calibrate`` finds: how far its answers to mirror images of a volume have to agree
    for its crystal to be relied on; without it, it never is.
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
        """Whether answers that agree so far may be relied on."""
        return self.sure_from is not None and agreement >= self.sure_from


class Network:
    """A loaded network: magnitudes ``input_shape`` in, complex crystal ``output_shape`` out; on a GPU as a graph."""

    def __init__(self, script: torch.jit.ScriptModule, contract: NetworkContract, sha256: str, device: str) -> None:
        self.contract = contract
        self.sha256 = sha256
        self.device = device
        self._script = script
        is_on_gpu = torch.device(device).type == "cuda"
        self._pass_of_one: Pass = Recorded(script, contract.input_shape, device) if is_on_gpu else script

    @property
    def lab_shape(self) -> tuple[int, int, int]:
        """Voxels of the volume that it takes.

        Raises
        ------
        NetworkFileError
            If it is not for volumes.
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
        amplitude, phase = self._script(magnitudes.to(self.device))
        return torch.polar(amplitude.float(), phase.float())

    def _require(self, shape: torch.Size) -> None:
        if tuple(shape) != self.contract.input_shape:
            raise NetworkFileError(
                f"network {self.contract.name}: expected {self.contract.input_shape}, got {tuple(shape)}"
            )


def weights_sha256(network: nn.Module) -> str:
    """Hash of the state: names in order, then each tensor's bytes as little-endian float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rounded(network: nn.Module) -> nn.Module:
    """A copy on the CPU, its weights as a file holds them: at half precision."""
    return copy.deepcopy(network).cpu().half().float()


def export(network: nn.Module, contract: NetworkContract, path: Path) -> None:
    """Write a network in evaluation mode with its contract, its weights at half precision, see `rounded`."""
    script = torch.jit.script(copy.deepcopy(network).cpu().eval().half())
    torch.jit.save(script, str(path), _extra_files={CONTRACT_FILE: _written(contract)})


def rewrite_contract(path: Path, contract: NetworkContract, sha256: str) -> None:
    """Put another contract into a file, weights and other texts in it as they are; the file is replaced whole.

    Raises
    ------
    NetworkFileError
        If the file is no longer the one with this ``sha256``.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise NetworkFileError(f"{path}: expected the file as it was read, got another one: do it again")
    inside = archive.members(data, str(path))
    inside[f"extra/{CONTRACT_FILE}"] = _written(contract).encode()
    with atomic_write(path) as part:
        part.write_bytes(archive.packed(inside))


def _written(contract: NetworkContract) -> str:
    return contract.model_dump_json(indent=1, exclude_none=True)


class Trainable(nn.Module):
    """A network from a file whose weights may be changed; normalisation stays in evaluation mode."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script.eval()
        for weight in script.parameters():
            weight.requires_grad_(True)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitude and phase; TorchScript's own derivatives fail on complex numbers, so it has to use torch's."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            amplitude, phase = self.script(magnitude)
        return amplitude, phase


def load_trainable(path: Path, device: str = "cpu") -> Trainable:
    """Load a network to change its weights.

    Raises `NetworkFileError` like `load`.
    """
    return Trainable(_read(path, device)[0])


def load(path: Path, device: str = "cpu") -> Network:
    """Load, check and warm up a network file.

    Raises
    ------
    NetworkFileError
        If there is no such file, no contract, another Fourier sign than ours, more in its code than a network needs,
        or an answer that is not what the contract says.
    ConfigError
        If ``device`` is not there.
    """
    script, contract, sha256 = _read(path, device)
    try:
        script = torch.jit.optimize_for_inference(torch.jit.freeze(script.eval()))
        network = Network(script, contract, sha256, device)
        for _ in range(3):
            answer = network(torch.zeros(contract.input_shape))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # whatever its code does when it runs
        raise NetworkFileError(
            f"{path}: expected amplitude and phase {contract.output_shape} for magnitudes {contract.input_shape}, "
            f"got an error: {_last_line(error)}"
        ) from error
    if tuple(answer.shape) != contract.output_shape:
        raise NetworkFileError(
            f"{path}: expected amplitude and phase {contract.output_shape} as its contract says, "
            f"got {tuple(answer.shape)}"
        )
    return network


def _read(path: Path, device: str) -> tuple[torch.jit.ScriptModule, NetworkContract, str]:
    """Script, contract and sha256 of a file; nothing of it runs before its code is checked."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: expected a GPU with CUDA, got none that torch can use; take 'cpu'")
    data = _bytes_of(path)
    inside = archive.members(data, str(path))
    if f"extra/{CONTRACT_FILE}" not in inside:
        raise NetworkFileError(
            f"{path}: expected TorchScript with {CONTRACT_FILE} inside, got TorchScript without it: save it with "
            f"_extra_files={{'{CONTRACT_FILE}': ...}}, see deploy/docs/networks.md"
        )
    try:
        contract = NetworkContract.model_validate_json(inside[f"extra/{CONTRACT_FILE}"])
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise NetworkFileError(
            f"{path}: expected TorchScript with a valid {CONTRACT_FILE} inside, got {wrong}"
        ) from error
    if contract.fourier_sign != FOURIER_SIGN:
        raise NetworkFileError(f"{path}: expected fourier_sign {FOURIER_SIGN:+d}, got {contract.fourier_sign:+d}")
    safe = archive.checked(inside, str(path), _is_operator)
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
        raise NetworkFileError(f"{path}: expected at most {MAX_FILE_BYTES >> 20} MiB, got {path.stat().st_size >> 20}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise NetworkFileError(f"network file {path} cannot be read: {error}") from error


def _is_operator(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))  # noqa: SLF001 - torch has no public way


def _require_bounds(script: torch.jit.ScriptModule, path: Path) -> None:
    """Refuse weights that would fill the memory, and steps whose number depends on the values that are measured."""
    n_weights = sum(tensor.numel() for tensor in (*script.parameters(), *script.buffers()))
    if n_weights > MAX_WEIGHTS:
        raise NetworkFileError(f"{path}: expected at most {MAX_WEIGHTS} weights, got {n_weights}")
    graph = script.inlined_graph
    for name in _READ_VALUES:
        for node in graph.findAllNodes(f"aten::{name}"):  # type: ignore[attr-defined]
            if any(map(_is_measured, node.inputs())):
                raise NetworkFileError(
                    f"{path}: expected a network whose steps depend on the shape of its input alone, got {name} of a "
                    "tensor, as in 'if x.max() > 0' or x.item(): write it with torch.where or torch.clamp"
                )


def _is_measured(value: torch._C.Value) -> bool:
    """Whether a tensor may depend on what is measured; sizes, which traces reckon with as tensors, do not."""
    if value.type().kind() != "TensorType":
        return False
    users = {use.user.kind() for use in value.uses()}
    kind = value.node().kind()
    if not users <= _ARITHMETIC | {f"aten::{name}" for name in _READ_VALUES} or kind not in _SIZES | _ARITHMETIC:
        return True  # used by something that may write into it, or made of anything else
    return kind in _ARITHMETIC and any(map(_is_measured, value.node().inputs()))


def _last_line(error: Exception) -> str:
    """The last line of torch's messages, which carry a whole trace, says what happened."""
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
