"""Write documents to a file, one line of JSON for each."""

from __future__ import annotations

import json
from pathlib import Path

from cdi_stream.documents.plain import to_plain
from cdi_stream.messages import Document


class JsonLinesSink:
    """Sink that appends each document to a file as one line of JSON, ``[name, document]``."""

    def __init__(self, *, path: Path) -> None:
        self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document."""
        self._file.write(json.dumps([name, to_plain(doc)]) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
