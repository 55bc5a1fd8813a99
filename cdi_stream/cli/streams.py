"""Commands of streams and results: ``serve``, ``record``, ``tee``, ``proxy`` and ``dashboard``."""

from __future__ import annotations

import importlib.util
import itertools
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from cdi_stream import registry
from cdi_stream.cli.output import (
    ConfigOption,
    JsonOption,
    LogFormat,
    LogOption,
    NeededConfig,
    StopSignal,
    console,
    say,
    show,
)
from cdi_stream.errors import CdiStreamError, InputError, missing_package

TELL_EVERY_S = 10.0
"""Time between two lines of `serve` about the silence of the detector [s]."""


def serve(config: NeededConfig, log_format: LogOption = LogFormat.TEXT) -> None:
    """Run the live service until Ctrl-C."""
    _require_torch()
    from cdi_stream.config import prepare_folder, read_config
    from cdi_stream.live.sockets import open_sockets

    settings = read_config(config)
    stop_signal = StopSignal()
    ready = prepare_folder(settings.publish.directory) / "ready"
    with open_sockets(settings) as sockets, _service(settings, config, sockets) as service:
        ready.touch()
        say(f"listening to {settings.detector.endpoint}; Ctrl-C ends the service")
        silence = Silence(settings.detector.endpoint, time.monotonic())
        while not stop_signal.is_set() and not service.wait(0.2):
            silence.look(service.counters()["messages"], time.monotonic())
        ready.unlink(missing_ok=True)
        say("stopping: curves in progress are finished, the others are left for the next start")
    remainder = {name: n for name, n in service.left.items() if n}
    if remainder:
        say(f"left for the next start: {', '.join(f'{n} {name}' for name, n in remainder.items())}")
    if not service.has_ended:
        os._exit(0 if service.failure is None else 1)  # a thread may still wait for a server
    if service.failure is not None:
        raise CdiStreamError(f"the service died: {service.failure!r}")


def _require_torch() -> None:
    """Raise `InputError` if torch is not installed, before sockets take documents and frames that nobody processes."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(missing_package("torch"))


def _service(settings: Any, config: Path, sockets: Any) -> Any:
    """Return the running service; torch is loaded after the sockets are open, so that no document is missed."""
    from cdi_stream.live.serve import running_service
    from cdi_stream.networks.trial import require_answer

    require_answer(settings.network.file, settings.device)
    return running_service(settings, config, sockets)


class Silence:
    """Prints a line at intervals while the detector has sent no message."""

    def __init__(self, endpoint: str, now_s: float) -> None:
        self._endpoint = endpoint
        self._begin_s = self._told_s = now_s

    def look(self, n_messages: int, now_s: float) -> None:
        """Print a line if there is no message yet and `TELL_EVERY_S` has passed; ``n_messages`` is their number."""
        if not n_messages and now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            say(
                f"no message from {self._endpoint} for {now_s - self._begin_s:.0f} s, since the start: is the "
                "detector's stream on? 'cdi-stream check' tells whether it can be reached"
            )


def record(
    endpoint: Annotated[str, typer.Argument(help="Address of the detector's stream, tcp://host:port.")],
    out: Annotated[Path, typer.Option("--out", help="HDF5 file for the frames.")],
    wire: Annotated[
        str, typer.Option("--format", help="Format of the stream: dectris2, dectris1, array1, or another decoder.")
    ] = "dectris2",
    socket: Annotated[str, typer.Option("--socket", help="Kind of ZeroMQ socket: pull or sub.")] = "pull",
    bind: Annotated[bool, typer.Option("--bind/--connect", help="Bind, for a detector that connects.")] = False,
    series: Annotated[int, typer.Option(help="Number of series to record; 0: until Ctrl-C.", min=0)] = 1,
    timeout: Annotated[float | None, typer.Option(help="Stop after this time without a message, in seconds.")] = None,
    raw: Annotated[Path | None, typer.Option(help="File for a log of the messages, byte for byte.")] = None,
    documents: Annotated[
        str | None, typer.Option(help="Out address of the document proxy; motors are recorded with the frames.")
    ] = None,
    serializer: Annotated[str, typer.Option(help="Format of the documents: msgpack, json or pickle.")] = "msgpack",
    beamline: Annotated[str | None, typer.Option(help="Beamline plugin for the names of the motors.")] = None,
    channel: Annotated[
        str | None, typer.Option(help="Threshold channel to record, if the detector has several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Record the frames of a detector in their data type, each frame once."""
    from cdi_stream.assemble.capture import CaptureSettings, capture
    from cdi_stream.config import BusConfig, DetectorConfig
    from cdi_stream.errors import describe_error

    if timeout is not None and not timeout > 0:
        raise InputError(f"--timeout: expected seconds above 0, got {timeout}")
    if beamline is not None:
        registry.load("cdi_stream.beamline", beamline)  # a wrong name is refused before the recording
    try:
        detector = DetectorConfig(endpoint=endpoint, format=wire, socket=socket, bind=bind, channel=channel)  # type: ignore[arg-type]
        bus = None if documents is None else BusConfig(subscribe=documents, serializer=serializer)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InputError("record:\n" + "\n".join(describe_error(e) for e in error.errors())) from error
    for path in (out, raw):
        _keep_old(path)
    if socket == "pull" and not bind:
        console.print("[yellow]note:[/yellow] a PULL socket takes frames away from other PULL sockets, such as a file")
        console.print("      writer; 'cdi-stream tee' gives all frames to both")
    settings = CaptureSettings(
        detector=detector, out=out, raw=raw, documents=bus, beamline=beamline, n_series=series, timeout_s=timeout
    )
    stop_signal = StopSignal()
    with console.status(f"waiting for frames from {endpoint}") as status:
        counts = capture(settings, stop_signal.is_set, lambda n: status.update(f"{n} frames"), say)
    if "stopped" in counts:
        console.print(f"[red]stopped:[/red] {escape(counts['stopped'])}", highlight=False)
        console.print(
            f"{counts['received']} frames until then are in {escape(str(out))}, which is complete", highlight=False
        )
    show(counts | {"file": str(out.resolve())}, as_json)
    if counts["missing"] or not counts["received"] or "stopped" in counts:
        raise typer.Exit(3)


def _keep_old(path: Path | None) -> None:
    """Rename an existing file, so that recorded data is not overwritten."""
    if path is None or not path.exists() or not path.stat().st_size:
        return
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    console.print(f"[yellow]note:[/yellow] the old {path.name} is kept as {aside.name}", highlight=False)


def tee(
    source: Annotated[str, typer.Argument(help="Address of the detector's stream, tcp://host:port.")],
    push: Annotated[str, typer.Option("--push", help="Address from which the file writer pulls, tcp://host:port.")],
    publish: Annotated[str, typer.Option("--pub", help="Address to which others subscribe, tcp://host:port.")],
    as_json: JsonOption = False,
) -> None:
    """Forward a detector's stream to a file writer and to subscribers; the writer gets every frame."""
    from cdi_stream.stream.tee import tee as run_tee

    stop_signal = StopSignal()
    console.print(f"{source} -> {push} (file writer), {publish} (subscribers); Ctrl-C ends")
    show(dict(run_tee(source, push, publish, max_message_bytes=400_000_000, is_stopped=stop_signal.is_set)), as_json)


def proxy(
    publish: Annotated[str, typer.Argument(help="Address at which documents are published, tcp://*:5577.")],
    subscribe: Annotated[str, typer.Argument(help="Address at which documents are heard, tcp://*:5578.")],
    secret: Annotated[
        Path | None,
        typer.Option(help="Secret key of 'cdi-stream keys'; only clients whose keys lie in its folder are let in."),
    ] = None,
    log_format: LogOption = LogFormat.TEXT,
) -> None:
    """Run a document proxy until Ctrl-C, for a facility that has none; it takes CurveZMQ on both sides."""
    from cdi_stream.addresses import parse
    from cdi_stream.documents.proxy import own_proxy

    for address in (publish, subscribe):
        try:
            is_guarded = secret is not None or parse(address).is_loopback
        except ValueError as error:
            raise InputError(f"{address}: {error}") from error
        if not is_guarded:
            raise InputError(f"{address}: other machines reach it: expected --secret, a key of 'cdi-stream keys'")
    stop_signal = StopSignal()
    with own_proxy(publish, subscribe, secret):
        say(f"documents go from {publish} to {subscribe}; Ctrl-C ends")
        while not stop_signal.is_set():
            time.sleep(0.2)


def dashboard(
    config: ConfigOption = None,
    feed: Annotated[
        str | None, typer.Option(help="Address of the service's feed, tcp://host:port, instead of --config.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the results, for past scans; by default that of --config.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address of the page; an address beyond this machine needs a token.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the page; 0: a free port.", min=0, max=65535)] = None,
    log_format: LogOption = LogFormat.TEXT,
) -> None:
    """Serve the operators' page in the web browser."""
    from cdi_stream.config import DashboardConfig, read_config
    from cdi_stream.operators.app import DashboardSettings, run_dashboard
    from cdi_stream.operators.history import FILE_NAME
    from cdi_stream.operators.reconstructor import ReconstructProgram
    from cdi_stream.refine.desk import QueueDesk

    settings = None if config is None else read_config(config)
    endpoint = feed or (settings.feed.endpoint if settings is not None else None)
    if endpoint is None:
        raise InputError("dashboard: expected --feed, or --config of a service with feed.endpoint set, got neither")
    page = DashboardConfig() if settings is None else settings.dashboard
    place = (host or page.host, page.port if port is None else port)
    say(f"http://{place[0]}:{place[1]}/ shows the feed of {endpoint}; Ctrl-C ends")
    folder = results or (None if settings is None else settings.publish.directory)
    if folder is None:
        say("without --config or --results the page shows no past scans and no surfaces of crystals")
    program = ReconstructProgram(config, folder) if config and folder and page.token else None
    parts = DashboardSettings(
        feed=endpoint,
        keys=None if settings is None else settings.feed.curve,
        token=page.token,
        history=None if folder is None else folder / FILE_NAME,
        results=folder,
        reconstructor=program,
        jobs=None if folder is None else QueueDesk(folder),
    )
    try:
        run_dashboard(parts, *place)
    finally:
        if program is not None:
            program.close()
