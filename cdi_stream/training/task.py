"""What is trained: a network, the crystals that it sees, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from cdi_stream.fourier import FOURIER_SIGN
from cdi_stream.networks.torchscript import NetworkContract, weights_sha256
from cdi_stream.training.plan import Plan, Stage

Draw = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One network's training.

    ``draw`` simulates a batch: what the network sees, and what it should answer; the generator's device is theirs.
    ``loss`` is of a batch in either mode of the network, its terms weighed by the stage.  ``exported`` makes of it what
    answers amplitude and phase of the crystal; `contract` says what is written into its file.
    """

    name: str
    network: Callable[[], nn.Module]
    draw: Callable[[int, Generator], Draw]
    loss: Callable[[nn.Module, Draw, Stage], Tensor]
    plan: Plan
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    oversampling: float
    phase_range_rad: float
    exported: Callable[[nn.Module], nn.Module] = nn.Module.eval

    def contract(self, network: nn.Module, training: str) -> NetworkContract:
        """Contract of a trained network, with one sentence on its training."""
        return NetworkContract(
            name=self.name,
            version="1",
            input_shape=self.input_shape,
            output_shape=self.output_shape,
            input_scaling="magnitude, maximum 1",
            oversampling=self.oversampling,
            phase_range_rad=self.phase_range_rad,
            coordinates="lab",
            fourier_sign=FOURIER_SIGN,
            weights_sha256=weights_sha256(network),
            training=training,
        )
