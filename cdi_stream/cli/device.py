"""The option for the device of the computation."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cdi_stream.errors import ConfigError


class Device(StrEnum):
    """Device of the computation."""

    CPU = "cpu"
    CUDA = "cuda"


DeviceOption = Annotated[Device, typer.Option("--device", help="Device of the computation.")]


def require(device: Device) -> None:
    """Check that a device is available.

    Raises
    ------
    ConfigError
        If torch cannot use the device.
    """
    import torch

    if device == Device.CUDA and not torch.cuda.is_available():
        raise ConfigError("--device cuda: expected a GPU with CUDA, got none that torch can use; take --device cpu")
