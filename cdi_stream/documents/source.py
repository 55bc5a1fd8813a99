"""Interface of the document sources, as typing protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import zmq

from cdi_stream.errors import WireError
from cdi_stream.messages import Document


class DocumentSource(Protocol):
    """Receives the documents of RunEngines; entry points of group ``cdi_stream.source`` build one.

    A source connects again by itself when its connection is lost.
    """

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """Socket that can be read when documents wait."""
        ...

    def documents(self, on_unusable: Callable[[WireError], None]) -> Iterator[tuple[str, Document]]:
        """Yield name and content of the documents that wait, in the order in which they were sent.

        ``on_unusable`` is called with the error of each message that is no document.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class DocumentSourceFactory(Protocol):
    """Builds a document source; entry points of group ``cdi_stream.source`` are of this type."""

    def __call__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, **options: str) -> DocumentSource:
        """Build a source for an address; ``options`` are those of ``documents.options`` in the configuration.

        Raises
        ------
        InputError
            If the address or an option is wrong.
        """
        ...
