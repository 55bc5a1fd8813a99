"""The option that says where to compute."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cdi_stream.errors import ConfigError


class Device(StrEnum):
    """Where to compute."""

    CPU = "cpu"
    CUDA = "cuda"


DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]


def require(device: Device) -> None:
    """Refuse a device that is not there.

    Raises
    ------
    ConfigError
        With the remedy.
    """
    import torch

    if device == Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("--device cuda: expected a GPU with CUDA, got none that torch can use; take --device cpu")
