"""Tools for a beamline's Bluesky profile: publish documents to the bus, and join frames to their run by its uid.

The package imports neither torch nor any other heavy part of cdi-stream.

>>> from cdi_stream_plugins.bluesky import publisher, rocking_curve, with_run_uid
"""

from cdi_stream_plugins.bluesky.document_publisher import DocumentPublisher, publisher
from cdi_stream_plugins.bluesky.plans import rocking_curve
from cdi_stream_plugins.bluesky.run_uid import with_run_uid

__all__ = ["DocumentPublisher", "publisher", "rocking_curve", "with_run_uid"]
