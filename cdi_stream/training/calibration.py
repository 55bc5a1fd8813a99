"""Calibrate a network: the agreement of its answers to mirror images at which its crystal is reliable.

The calibration uses simulated crystals that no training draws, with the whole range of strain of real measurements.  A
network that was not trained on strong strain must not be sure of strongly strained crystals.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from torch import Generator

from cdi_stream.networks.losses import overlaps
from cdi_stream.networks.mirrors import agreement, mirrored_answers
from cdi_stream.networks.torchscript import Network, NetworkContract, load, rewrite_contract
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import Array, measure
from cdi_stream.training.fields import FIELDS
from cdi_stream.training.shapes import SHAPES
from cdi_stream.training.trainer import HELD_OUT_SEED

RELIABLE_OVERLAP = 0.87
"""Least overlap with the truth of a reliable crystal."""

RELIABLE_SHARE = 0.9
"""Least share of reliable crystals among the crystals that a network is sure of."""

WINDOW = 30
"""Number of crystals of similar agreement that are judged together."""

LEAST_CRYSTALS = 20
"""Least number of crystals that confirm a limit."""

PHOTONS = (1e5, 1e7)
"""Smallest and largest number of photons of a simulated pattern."""

FIRST_SEED = HELD_OUT_SEED + 50_000
"""Seed of the first crystal; no training and no validation uses seeds from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Result for one crystal: the agreement of four answers, and the overlap of the first answer with the truth."""

    agreement: float
    overlap: float

    @property
    def is_near(self) -> bool:
        """Whether the answer is reliable."""
        return self.overlap >= RELIABLE_OVERLAP


def calibrate(path: Path, n: int, device: str = "cpu") -> NetworkContract:
    """Calibrate a network on ``n`` crystals, write the limit into its file and model card, and return the contract.

    Parameters
    ----------
    path
        Network file; a model card next to it is updated.
    n
        Number of simulated crystals.
    device
        Device of the computation.

    Raises
    ------
    NetworkFileError
        If the network is not for volumes, or its file has changed during the calibration.
    """
    network = load(path, device)
    contract = network.contract.model_copy(update={"sure_from": sure_from(trials(network, n))})
    rewrite_contract(path, contract, network.sha256)
    card = path.with_suffix(".card.json")
    if card.is_file():
        content = json.loads(card.read_text()) | {"network": contract.model_dump(mode="json", exclude_none=True)}
        card.write_text(json.dumps(content, indent=1) + "\n")
    return contract


def trials(network: Network, n: int, first_seed: int = FIRST_SEED) -> list[Trial]:
    """Return the results of a network for ``n`` random crystals of 0 to 5 pi, about as large as the network expects."""
    return [_trial(network, Generator().manual_seed(first_seed + k)) for k in range(n)]


def _trial(network: Network, generator: Generator) -> Trial:
    n_voxels, n_out = network.lab_shape[0], network.contract.output_shape[0]
    typical = n_voxels / network.contract.oversampling
    ranges = CrystalRanges(
        longest_vox=(0.7 * typical, 1.25 * typical),  # the live service estimates the crystal's size from its fringes
        phase_range_rad=(0.0, 5 * math.pi),
        correlation=(0.5, 1.3),
        shapes=tuple(SHAPES),
        fields=tuple(FIELDS),
    )
    array = Array.SAME if n_out == n_voxels else Array.DOUBLE
    magnitude, truth = measure(crystals(1, n_out, ranges, generator), generator, PHOTONS, array)
    answers = mirrored_answers(network, magnitude[0])
    return Trial(agreement=agreement(answers), overlap=float(overlaps(answers[:1].cpu(), truth)[0]))


def sure_from(results: list[Trial]) -> float | None:
    """Return the least agreement at which nine of ten crystals are reliable; None if there is none.

    The limit is determined on every second crystal: it is lowered as long as nine of ten of the last `WINDOW` crystals
    above it are reliable, so that crystals near the limit are as good as all others.  The other crystals confirm it;
    without `LEAST_CRYSTALS` of them the result is None.
    """
    limit = _limit(results[::2])
    sure_trials = [trial for trial in results[1::2] if limit is not None and trial.agreement >= limit]
    return limit if len(sure_trials) >= LEAST_CRYSTALS and _are_near(sure_trials) else None


def _limit(results: list[Trial]) -> float | None:
    by_agreement = sorted(
        results, key=lambda trial: (-trial.agreement, trial.overlap)
    )  # at equal agreement the worst first
    windows = (by_agreement[end - WINDOW : end] for end in range(WINDOW, len(by_agreement) + 1))
    near = list(takewhile(_are_near, windows))
    last = next((trial for trial in reversed(near[-1]) if trial.is_near), None) if near else None
    return None if last is None else math.ceil(1000 * last.agreement) / 1000


def _are_near(results: list[Trial]) -> bool:
    return sum(trial.is_near for trial in results) >= RELIABLE_SHARE * len(results)
