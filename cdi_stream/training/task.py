"""What is trained: a network, the crystals that it sees, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.networks.torchscript import NetworkContract, weights_sha256
from cdi_stream.training.plan import Plan, Stage

Draw = tuple[Tensor, ...]
Crystals = Callable[[int, Generator], Tensor]
"""Draws a batch of complex crystals; the generator's device is theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One network's training.

    ``seen`` makes of crystals what the network sees of them, and what it should answer.  ``held_out`` crystals, where
    they are not drawn like ``crystals``, are those it is judged by.  ``loss`` is of a batch in either mode of the
    network, its terms weighed by the stage.  ``exported`` makes of it what answers amplitude and phase of the crystal;
    `contract` says what is written into its file.  ``data`` says where the crystals come from.
    """

    name: str
    network: Callable[[], nn.Module]
    crystals: Crystals
    seen: Callable[[Tensor, Generator], Draw]
    loss: Callable[[nn.Module, Draw, Stage], Tensor]
    plan: Plan
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    oversampling: float
    phase_range_rad: float
    exported: Callable[[nn.Module], nn.Module] = nn.Module.eval
    held_out: Crystals | None = None
    data: str = "simulated as they were needed, each step from a seed of its own"

    def draw(self, batch: int, generator: Generator) -> Draw:
        """A batch to learn from: what the network sees, and what it should answer."""
        return self.seen(self.crystals(batch, generator), generator)

    def draw_held_out(self, batch: int, generator: Generator) -> Draw:
        """A batch to be judged by."""
        return self.seen((self.held_out or self.crystals)(batch, generator), generator)

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
