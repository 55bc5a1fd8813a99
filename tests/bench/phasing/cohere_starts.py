"""Random starts of cohere_core on counts; runs in the Python that has cohere_core, and imports nothing of ours.

``python cohere_starts.py counts.npz crystals.npz SEQUENCE N``: the numpy file holds ``data`` (counts, origin at N//2);
the result has ``crystals`` ``(N, *shape)`` and ``seconds``.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PARAMETERS: dict[str, Any] = {
    "hio_beta": 0.9,
    "initial_support_area": [0.5, 0.5, 0.5],
    "init_guess": "random",
    "shrink_wrap_trigger": [100, 10],
    "shrink_wrap_type": "GAUSS",
    "shrink_wrap_threshold": 0.2,
    "shrink_wrap_gauss_sigma": 1.0,
    "pc_interval": 50,
    "pc_type": "LUCY",
    "pc_LUCY_iterations": 20,
    "pc_LUCY_kernel": [16, 16, 16],
    "pc_normalize": True,
}
"""The values of the papers, and those of cohere's documentation for partial coherence."""


def main(source: str, target: str, sequence: str, n: int) -> None:
    """Run all starts and write their crystals."""
    import cohere_core.controller.phasing as phasing
    import torch

    with tempfile.TemporaryDirectory() as folder:
        amplitudes = Path(folder) / "data.npy"
        np.save(amplitudes, np.sqrt(np.load(source)["data"]).astype(np.float32))
        crystals, begin_s = [], time.perf_counter()
        for seed in range(n):
            np.random.seed(seed)  # noqa: NPY002 - the generator that cohere draws from
            torch.manual_seed(seed)
            parameters = PARAMETERS | {"algorithm_sequence": sequence}
            if "pc" not in sequence:
                parameters = {name: value for name, value in parameters.items() if not name.startswith("pc")}
            backend = "np" if "pc" in sequence else "torch"  # cohere_core 4.5: no partial coherence with torch
            with contextlib.redirect_stdout(io.StringIO()):
                worker = phasing.create_rec(parameters, str(amplitudes), backend, -1, debug=True)
                worker.iterate()
            crystal = np.asarray(phasing.devlib.to_numpy(worker.get_image()))
            support = np.asarray(phasing.devlib.to_numpy(worker.get_support())) > 0
            crystals.append((crystal * support).astype(np.complex64))
    np.savez(target, crystals=np.stack(crystals), seconds=time.perf_counter() - begin_s)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
