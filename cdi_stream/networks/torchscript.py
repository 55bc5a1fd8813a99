"""Network files: TorchScript with its contract inside.  The only module that knows TorchScript.

torch marks TorchScript as deprecated; see deploy/decisions/0003-torchscript.md for why it stays for now.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from cdi_stream.errors import NetworkFileError
from cdi_stream.fourier import FOURIER_SIGN
from cdi_stream.networks.cuda_graph import Pass, Recorded

CONTRACT_FILE = "cdi_stream.json"


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
    oversampling: float
    phase_range_rad: float
    coordinates: Literal["lab"]
    fourier_sign: int
    weights_sha256: str
    training: str
    sure_from: float | None = None

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
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise NetworkFileError(f"{path}: expected the file as it was read, got another one: do it again")
    with ZipFile(path) as archive:
        texts = {name.partition("/extra/")[2]: "" for name in archive.namelist() if "/extra/" in name}
    script = torch.jit.load(str(path), map_location="cpu", _extra_files=texts)
    part = path.with_name(path.name + ".part")
    torch.jit.save(script, str(part), _extra_files={**texts, CONTRACT_FILE: _written(contract)})
    part.replace(path)


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
        with torch.jit.optimized_execution(False):
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
        If there is no such file, no contract, or another Fourier sign than ours.
    """
    script, contract = _read(path, device)
    script = torch.jit.optimize_for_inference(torch.jit.freeze(script.eval()))
    network = Network(script, contract, hashlib.sha256(path.read_bytes()).hexdigest(), device)
    for _ in range(3):
        network(torch.zeros(contract.input_shape))
    return network


def _read(path: Path, device: str) -> tuple[torch.jit.ScriptModule, NetworkContract]:
    if not path.is_file():
        raise NetworkFileError(f"network file {path} does not exist; train one with 'cdi-stream train'")
    extra = {CONTRACT_FILE: ""}
    try:
        script = torch.jit.load(str(path), map_location=device, _extra_files=extra)
        contract = NetworkContract.model_validate_json(extra[CONTRACT_FILE] or "{}")
    except (RuntimeError, ValidationError, json.JSONDecodeError) as error:
        raise NetworkFileError(f"{path}: expected TorchScript with {CONTRACT_FILE} inside, got: {error}") from error
    if contract.fourier_sign != FOURIER_SIGN:
        raise NetworkFileError(f"{path}: expected fourier_sign {FOURIER_SIGN:+d}, got {contract.fourier_sign:+d}")
    return script.float(), contract
