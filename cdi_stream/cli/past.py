"""The command ``reconstruct``: a past scan again, with other settings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cdi_stream.cli.output import JsonOption, OutOption, PlotOption, SettingsOption, console
from cdi_stream.cli.replays import compare, finish
from cdi_stream.errors import InputError, RecordingError

if TYPE_CHECKING:
    from cdi_stream.live.past import PastScan
    from cdi_stream.messages import Document, RecordedScan
    from cdi_stream.protocols import Archive
    from cdi_stream.replay.archives import Server

ScanArgument = Annotated[
    str,
    typer.Argument(
        help="Recorded scan as for 'replay', or the uid in Tiled of a raw run or of its reconstruction.",
        show_default=False,
    ),
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Key of the configuration to replace, as phase.budget_s=20; may be given several times."
    ),
]
TiledOption = Annotated[
    str | None, typer.Option(help="Address of the Tiled server, http://host:8000; by default that of --config.")
]
KeyOption = Annotated[
    str | None, typer.Option(envvar="TILED_API_KEY", help="Key of the Tiled server; by default that of --config.")
]
PublishOption = Annotated[
    bool,
    typer.Option(
        "--publish/--no-publish",
        help="Publish to Tiled: a run from Tiled to its server, a recorded scan to the server of --tiled.",
    ),
]


def reconstruct(
    scan: ScanArgument,
    number: Annotated[
        str | None,
        typer.Option("--scan", help="Number or name of the scan, such as 54 or 20.1, if the recording holds several."),
    ] = None,
    config: SettingsOption = None,
    changes: ChangeOption = None,
    detector: Annotated[str | None, typer.Option(help="Data key of the images, if a run in Tiled has several.")] = None,
    tiled: TiledOption = None,
    tiled_key: KeyOption = None,
    publish: PublishOption = True,
    out: OutOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct a past scan again, with other settings; the result is a run of its own."""
    from cdi_stream.live.past import raw_run, reconstruct_again, scan_of_record, scan_of_run
    from cdi_stream.replay.archives import tiled_server
    from cdi_stream.replay.play import results_folder
    from cdi_stream.replay.settings import settings_of

    recorded = _recorded(scan, number)
    directory = out or Path(tempfile.mkdtemp(prefix="cdi-stream-"))
    with results_folder(directory) as folder, console.status("reading the settings") as status:
        settings, _ = settings_of(config, recorded, folder, changes or [])
        server = tiled_server(tiled, tiled_key, config) if recorded is None or tiled is not None else None
        if recorded is not None:
            past = scan_of_record(recorded, settings)
        else:
            status.update("reading the run from Tiled")
            assert server is not None
            past = scan_of_run(*raw_run(_archive(server), scan), settings, detector)
        documents: list[tuple[str, Document]] = []
        uid = reconstruct_again(past, settings, folder, lambda *document: documents.append(document), status.update)
        _publish(documents, uid, folder, server if publish else None)
    summaries = _summaries(documents, past, recorded)
    finish(summaries, plot, as_json)


def _recorded(scan: str, number: str | None) -> RecordedScan | None:
    """Return the recorded scan at a path; None for a uid.  Raises `InputError` if the text is neither."""
    from cdi_stream.files.recorded_scan import read_recorded

    path = Path(scan)
    if path.exists():
        recorded = read_recorded(path, number)
        for word, texts in (("note", recorded.notes), ("doubt", recorded.doubts)):
            for text in texts:
                console.print(f"[yellow]{word}:[/yellow] {escape(text)}", highlight=False)
        return recorded
    if path.suffix or "/" in scan:
        raise RecordingError(f"{scan}: expected a recorded scan, or the uid of a run in Tiled; no such file exists")
    if number is not None:
        raise InputError(f"--scan {number}: expected a recorded scan that holds several, got the uid {scan}")
    return None


def _archive(server: Server) -> Archive:
    """Return the archive of past runs on a Tiled server."""
    from cdi_stream.registry import load

    archive: Archive = load("cdi_stream.archive", "tiled")(server.uri, api_key=server.api_key)
    return archive


def _publish(documents: list[tuple[str, Document]], uid: str, folder: Path, server: Server | None) -> None:
    """Write the documents into the folder, and to the server unless it has the run already."""
    from cdi_stream.registry import load

    file = folder / "documents.jsonl"
    file.unlink(missing_ok=True)
    sinks = [load("cdi_stream.sink", "json_lines")(path=file)]
    if server is not None:
        sink = load("cdi_stream.sink", "tiled")(uri=server.uri, api_key=server.api_key or None)
        if sink.has_run(uid):
            console.print(f"[yellow]note:[/yellow] Tiled has the run {uid} of these settings already", highlight=False)
            sink.close()
        else:
            sinks.append(sink)
    for sink in sinks:
        for name, doc in documents:
            sink(name, doc)
        sink.close()


def _summaries(
    documents: list[tuple[str, Document]], past: PastScan, recorded: RecordedScan | None
) -> list[dict[str, object]]:
    """Return the summary of each curve, as the command ``replay`` gives it."""
    from cdi_stream.replay.results import ReplayDocuments, summary

    collected = ReplayDocuments("" if recorded is None else recorded.name, raw_uid=past.raw_uid)
    for name, doc in documents:
        collected.take(name, doc, 0.0)
    summaries = [summary(collected, curve.curve_index, recorded) for curve in past.curves]
    if recorded is not None and recorded.truth is not None:
        summaries = [compare(one, str(recorded.truth["case"])) for one in summaries]
    return summaries
