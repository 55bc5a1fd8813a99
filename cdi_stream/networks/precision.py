"""Run parts of a network in bfloat16, which CPUs with matrix units compute several times faster than single precision.

A network says which of its parts keep their quality: its attribute ``reducible`` is a list of their names.  Such a part
takes single precision and answers in single precision; its weights may have any precision.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def in_bfloat16(network: Module) -> Module | None:
    """Return a copy of a network with its reducible parts in bfloat16; None if the network has no such part."""
    names = getattr(network, "reducible", [])
    if not names:
        return None
    copied = copy.deepcopy(network)
    for name in names:
        getattr(copied, name).to(torch.bfloat16).to(memory_format=torch.channels_last_3d)
    return copied
