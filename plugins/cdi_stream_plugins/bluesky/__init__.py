"""Tools for a beamline's Bluesky profile: send documents to the service, wait for its results, and decide by them.

The package imports neither torch nor any other heavy part of cdi-stream.  `AsyncReconstruction` needs ophyd-async.

>>> from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, rocking_curve
"""

from typing import TYPE_CHECKING

from cdi_stream_plugins.bluesky.closed_loop import count_until_good, follow_crystal, map_crystals, recentre
from cdi_stream_plugins.bluesky.document_publisher import DocumentPublisher, publisher
from cdi_stream_plugins.bluesky.plans import rocking_curve, wait_for_reconstruction
from cdi_stream_plugins.bluesky.reconstruction import Reconstruction
from cdi_stream_plugins.bluesky.results import ReconstructionResult
from cdi_stream_plugins.bluesky.run_uid import with_run_uid
from cdi_stream_plugins.bluesky.series import SeriesTrends
from cdi_stream_plugins.bluesky.subscriber import CdiStream

if TYPE_CHECKING:
    from cdi_stream_plugins.bluesky.async_reconstruction import AsyncReconstruction

__all__ = [
    "AsyncReconstruction",
    "CdiStream",
    "DocumentPublisher",
    "Reconstruction",
    "ReconstructionResult",
    "SeriesTrends",
    "count_until_good",
    "follow_crystal",
    "map_crystals",
    "publisher",
    "recentre",
    "rocking_curve",
    "wait_for_reconstruction",
    "with_run_uid",
]


def __getattr__(name: str) -> object:
    """Import `AsyncReconstruction` when it is asked for: ophyd-async is not installed everywhere."""
    if name != "AsyncReconstruction":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cdi_stream_plugins.bluesky.async_reconstruction import AsyncReconstruction

    return AsyncReconstruction
