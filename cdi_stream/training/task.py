"""Description of a training: network, crystals, simulated measurement, loss, plan and contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.networks.torchscript import NetworkContract, weights_sha256
from cdi_stream.training.plan import Plan, Stage

Draw = tuple[Tensor, ...]
Crystals = Callable[[int, Generator], Tensor]
"""Function that draws a batch of complex crystals on the generator's device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Training of one network.

    Parameters
    ----------
    name
        Name of the training and of its network.
    network
        Function that makes the untrained network.
    crystals
        Function that draws crystals.
    observe
        Function from crystals to the network's input and the expected output.
    loss
        Function of network, batch and stage; the stage weighs its terms.
    plan
        Stages of the training.
    input_shape, output_shape, oversampling, phase_range_rad
        Entries of the network's contract.
    wrap_for_export
        Function from the network to a module that returns amplitude and phase of the crystal.
    held_out
        Function that draws crystals for validation; None: ``crystals``.
    data
        Origin of the crystals, for the model card.
    """

    name: str
    network: Callable[[], nn.Module]
    crystals: Crystals
    observe: Callable[[Tensor, Generator], Draw]
    loss: Callable[[nn.Module, Draw, Stage], Tensor]
    plan: Plan
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    oversampling: float
    phase_range_rad: float
    wrap_for_export: Callable[[nn.Module], nn.Module] = nn.Module.eval
    held_out: Crystals | None = None
    data: str = "simulated as they were needed, each step from a seed of its own"

    def draw(self, batch: int, generator: Generator) -> Draw:
        """Return a training batch: the network's input and the expected output."""
        return self.observe(self.crystals(batch, generator), generator)

    def draw_held_out(self, batch: int, generator: Generator) -> Draw:
        """Return a validation batch: the network's input and the expected output."""
        return self.observe((self.held_out or self.crystals)(batch, generator), generator)

    def contract(self, network: nn.Module, training: str) -> NetworkContract:
        """Return the contract of a trained network; ``training`` is one sentence on its training."""
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
