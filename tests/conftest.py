"""Guards and shared fixtures: the project must be installed, and no test may leave a thread or a child."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for all processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

try:
    version("cdi-stream")
except PackageNotFoundError:
    pytest.exit("cdi-stream is not installed, so its plugins cannot be found: run 'make test'", returncode=2)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Threads of one transform wait for one another where other tests run at the same time."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads():
    """Two threads for torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread():
    """One thread for a transform, whatever an earlier test has left."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_thread_left():
    before = set(threading.enumerate())
    yield
    pools = "ThreadPoolExecutor"  # the Tiled client keeps one, and offers no way to end it
    after = (thread for thread in threading.enumerate() if thread not in before and not thread.daemon)
    left = [thread for thread in after if not thread.name.startswith(pools)]
    assert not left, f"threads left running: {left}"


@pytest.fixture(scope="session")
def network():
    """The network that comes with the package."""
    from cdi_stream.networks.packaged import DEFAULT_NETWORK
    from cdi_stream.networks.torchscript import load

    return load(DEFAULT_NETWORK)


@pytest.fixture(scope="module", params=["compiled", "dectris"])
def backend(request) -> Iterator[str]:
    """Each backend that decompresses images in turn; ``dectris`` is installed by `make fast`."""
    from cdi_stream_plugins.decoders import decompression

    if request.param not in decompression.BACKENDS:
        pytest.skip(f"the backend {request.param} is not installed: run 'make fast'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompression, "_default", decompression.BACKENDS[request.param])
        yield request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and reference cases, where they are at hand."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data and reference cases is not beside the checkout")
    return SHARED
