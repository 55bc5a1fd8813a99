"""A rocking curve in a profile of nslsii, by IPython: ``ipython nslsii_profile.py SOURCE``.

With the source ``tiled`` the documents reach the service by `TiledWriter` only.  Prints the readings of ``crystal``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import nslsii
from IPython import get_ipython

from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, rocking_curve
from sim_beamline.epics.devices import Goniometer, TriggeredEiger

namespace = get_ipython().user_ns
broker = None
if sys.argv[1] == "tiled":
    from bluesky_tiled_plugins import TiledWriter
    from tiled.client import from_uri

    client = from_uri(os.environ["CDI_STREAM_TILED"], api_key=os.environ["CDI_STREAM_TILED_KEY"])
    broker = TiledWriter(client, batch_size=1)
nslsii.configure_base(namespace, broker, publish_documents_with_kafka=False)
engine = namespace["RE"]
engine.md |= {"data_session": "pass-123456", "proposal": {"proposal_id": "123456", "pi": {"name": "A. Nother"}}}
goniometer = Goniometer("SIM:", name="goniometer")
eiger = TriggeredEiger("SIM:eiger:", name="eiger")
for device in (goniometer, eiger):
    device.wait_for_connection(timeout=60)
namespace["sd"].baseline = [goniometer]
source: str | CdiStream = os.environ.get("CDI_STREAM_RESULTS", "")
if broker is None:
    source = CdiStream(os.environ["CDI_STREAM_CONFIG"], service_python=os.environ["CDI_STREAM_PYTHON"])
    engine.subscribe(source)
    assert source.wait_for_service(120)
crystal = Reconstruction("crystal", source, timeout_s=120)
(uid,) = engine(rocking_curve(eiger, goniometer.theta, 0.044, 0.604, 48, reconstruction=crystal))
if broker is None:
    source.close()
print(json.dumps({"run": uid, **dataclasses.asdict(crystal.result)}), flush=True)
