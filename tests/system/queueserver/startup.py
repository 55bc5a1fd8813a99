"""Startup script of a queue server: simulated devices, the documents to the service, and a plan for the queue."""

import json
import os

import zmq
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData

from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, rocking_curve
from sim_beamline.devices import Axis, DetectorClient

RE = RunEngine({}, context_managers=[])
stream = CdiStream(os.environ["CDI_STREAM_CONFIG"])
RE.subscribe(stream)

standing = json.loads(os.environ["CDI_STREAM_BASELINE"])
baseline = [Axis(name=name, unit=unit, value=value) for name, (value, unit) in standing.items()]
RE.preprocessors.append(SupplementalData(baseline=baseline))

theta = Axis(name="theta", unit="deg", value=0.0)
eiger = DetectorClient(name="eiger", control_endpoint=os.environ["CDI_STREAM_CONTROL"], context=zmq.Context())
crystal = Reconstruction("crystal", stream, timeout_s=120)


def bcdi(detector, motor, start, stop, num, reconstruction=None, md=None):
    """Measure a rocking curve; the queue server knows plans by their yield, and wants plain annotations or none."""
    yield from rocking_curve(detector, motor, start, stop, num, reconstruction=reconstruction, md=md)
