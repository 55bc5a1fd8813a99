"""Serve the newest result as EPICS process variables over Channel Access, for displays and alarm handlers."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Mapping, Sequence

from cdi_stream.errors import PluginError, ServiceError
from cdi_stream.messages import Document

try:
    from cdi_stream_plugins.sinks.epics_pvs import ChannelAccess, ResultPVs, Update, updates_of
except ModuleNotFoundError as error:
    raise PluginError(
        "publish.epics_prefix needs the package caproto: python -m pip install 'cdi-stream[epics]'"
    ) from error

START_S = 10.0
"""Longest time [s] for the server to begin, and for one update of the variables."""

_STATES = {"preview": "measuring", "inference": "reconstructing", "reconstruction": "idle"}

logging.getLogger("caproto").setLevel(logging.WARNING)


class EpicsSink:
    """Sink that serves the variables of `ResultPVs` under a prefix, from a thread of its own.

    The variables show the newest event by its time: documents that come late or again, after an outage, change nothing.
    They are read-only for clients, and vanish with the service, which clients see as a lost connection.

    Parameters
    ----------
    prefix
        Begin of the names, for example ``34IDC:CDI:``.
    interfaces
        Addresses of this machine at which clients are served.
    port
        Port of Channel Access; None for ``EPICS_CA_SERVER_PORT``, by default 5064.

    Raises
    ------
    ServiceError
        If the addresses cannot be bound.
    """

    def __init__(self, *, prefix: str, interfaces: Sequence[str] = ("127.0.0.1",), port: int | None = None) -> None:
        self._pvs = ResultPVs(prefix=prefix)
        self._interfaces, self._port = list(interfaces), port
        self._raw_of_run: dict[str, str] = {}
        self._stream_of_descriptor: dict[str, tuple[str, str]] = {}
        self._newest_s = -math.inf
        self._newest_run = ""
        self._begun = threading.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="epics server", daemon=True)
        self._thread.start()
        if not self._begun.wait(START_S) or self._failure is not None:
            self.close()
            raise ServiceError(
                f"EPICS variables {prefix}*: expected to serve them at {', '.join(interfaces)}, got: {self._failure}; "
                "see publish.epics_interfaces and publish.epics_port"
            )

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document; events of a reconstruction change the variables."""
        match name:
            case "start" if doc.get("analysis_stage") == "reconstruction":
                self._raw_of_run[doc["uid"]] = str(doc.get("original_run_uid", ""))
            case "descriptor" if doc["run_start"] in self._raw_of_run:
                self._stream_of_descriptor[doc["uid"]] = (doc["run_start"], doc["name"])
            case "event" if doc["descriptor"] in self._stream_of_descriptor:
                run, stream = self._stream_of_descriptor[doc["descriptor"]]
                self._event(stream, run, doc["data"], float(doc["time"]))
            case "stop":
                self._stop(doc["run_start"], float(doc["time"]))

    def has_run(self, uid: str) -> bool:
        """Return false: a new server knows no run, and is told each open run from its start document."""
        return False

    def close(self) -> None:
        """End the server."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(START_S)

    def _event(self, stream: str, run: str, data: Mapping[str, object], time_s: float) -> None:
        if time_s < self._newest_s or stream not in _STATES:
            return
        self._newest_s, self._newest_run = time_s, run
        updates: list[Update] = [Update(name="state", value=_STATES[stream])]
        if stream == "reconstruction":
            values = {key.removeprefix(f"{stream}_"): value for key, value in data.items()}
            updates += updates_of(values, self._raw_of_run[run])
        self._show(updates, time_s)

    def _show(self, updates: list[Update], time_s: float) -> None:
        """Set variables in the server's thread; wait until they are set."""
        asyncio.run_coroutine_threadsafe(self._pvs.show(updates, time_s), self._loop).result(START_S)

    def _stop(self, run: str, time_s: float) -> None:
        """Forget a run that is over; after a preview or an inference it may have ended without a reconstruction."""
        if run == self._newest_run:
            self._show([Update(name="state", value="idle")], time_s)
        self._raw_of_run.pop(run, None)
        self._stream_of_descriptor = {d: known for d, known in self._stream_of_descriptor.items() if known[0] != run}

    async def _serve(self) -> None:
        """Serve the variables until cancelled; the server must be made inside its event loop."""
        server = ChannelAccess(self._pvs.pvdb, self._interfaces, self._port)
        await server.serve(self._begun.set)

    def _run(self) -> None:
        """Run the event loop, the body of the thread."""
        try:
            self._loop.run_until_complete(self._task)
        except (OSError, RuntimeError) as error:
            self._failure = error
        except asyncio.CancelledError:
            pass
        finally:
            self._begun.set()
            self._loop.close()
