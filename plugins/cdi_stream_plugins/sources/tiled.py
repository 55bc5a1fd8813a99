"""Receive the documents of the runs that a RunEngine writes to a Tiled server with `TiledWriter`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import zmq

from cdi_stream.errors import ServiceError, WireError
from cdi_stream_plugins.sources.carrier import CarrierSource, HandOn

try:
    import httpx
    from websockets.exceptions import WebSocketException

    from cdi_stream_plugins.sources.tiled_client import KeyRefusedError, TiledClient, split_address
    from cdi_stream_plugins.sources.tiled_follow import Catalog, Follower
except ImportError as error:
    raise ImportError(f"{error}; the source tiled needs more packages: pip install 'cdi-stream[tiled]'") from error

logger = logging.getLogger(__name__)

STOP_CHECK_S = 0.2
"""Time [s] between two looks whether the source was closed."""

KEY_RETRY_S = 60.0
"""Time [s] between two attempts while the server refuses the key."""


class TiledSource(CarrierSource):
    """Document source on the catalog at ``address`` (``http://host:8000``); option ``api_key``.

    Runs that are open when the source connects first come from their beginning, older ones do not come.  After a lost
    connection every document that was missed comes, none comes twice.  Tiled keeps neither the uids of events nor those
    of StreamResource and StreamDatum: these are made up.

    Raises
    ------
    EndpointError
        If the address is not one of HTTP.
    """

    failures = (
        OSError,
        httpx.HTTPError,
        WebSocketException,
        ServiceError,
        WireError,
        ValueError,
        LookupError,
        TypeError,
    )

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, *, api_key: str = "") -> None:
        split_address(address)  # refuses a wrong one
        super().__init__(context, address)
        self._api_key = api_key
        self._catalog = Catalog()
        self.start()

    def receive(self, hand_on: HandOn, is_stopped: Callable[[], bool]) -> None:
        """Follow the catalog until stopped, or until a connection is lost."""
        try:
            asyncio.run(self._follow(hand_on, is_stopped))
        except KeyRefusedError:
            logger.warning(
                "documents from %s: the Tiled server refuses the API key: set documents.options.api_key to a key that "
                "may read data and metadata",
                self.address,
            )
            self._stopped.wait(KEY_RETRY_S)
        except BaseExceptionGroup as group:
            raise _first(group) from group

    def interrupt(self) -> None:
        """Do nothing: `receive` looks every `STOP_CHECK_S` whether the source was closed."""

    async def _follow(self, hand_on: HandOn, is_stopped: Callable[[], bool]) -> None:
        async with contextlib.aclosing(TiledClient(self.address, self._api_key)) as client:
            following = asyncio.ensure_future(Follower(client, self._catalog, hand_on).run(self.connected))
            while not is_stopped() and not following.done():
                await asyncio.wait([following], timeout=STOP_CHECK_S)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
