"""What is trained: a network, the crystals that it sees, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from cdi_stream.networks.torchscript import NetworkContract
from cdi_stream.training.plan import Plan

Draw = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One network's training.

    ``draw`` simulates a batch: what the network sees, and what it should answer; the generator's device is theirs.
    ``loss`` is of a batch in either mode of the network.  ``contract`` is written into the exported file, with one
    sentence on the training.
    """

    name: str
    network: Callable[[], nn.Module]
    draw: Callable[[int, Generator], Draw]
    loss: Callable[[nn.Module, Draw], Tensor]
    plan: Plan
    contract: Callable[[nn.Module, str], NetworkContract]
