"""Commands at a detector: ``serve``, ``record``, ``tee`` and ``dashboard``."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from cdi_stream import registry
from cdi_stream.cli.output import ConfigOption, JsonOption, NeededConfig, StopSignal, console, show
from cdi_stream.errors import CdiStreamError, InputError

TELL_EVERY_S = 10.0
"""How often `serve` tells that no message has ever come [s]."""


def serve(config: NeededConfig) -> None:
    """Run the live service until it is told to stop (Ctrl-C)."""
    from cdi_stream.config import prepare_folder, read_config
    from cdi_stream.live.sockets import open_sockets

    settings = read_config(config)
    stopping = StopSignal()
    ready = prepare_folder(settings.publish.directory) / "ready"
    with open_sockets(settings) as sockets, _service(settings, config, sockets) as service:
        ready.touch()
        console.print(f"listening to {settings.detector.endpoint}; Ctrl-C ends the service")
        silence = Silence(settings.detector.endpoint, time.monotonic())
        while not stopping.is_set() and not service.wait(0.2):
            silence.look(service.counters()["messages"], time.monotonic())
        ready.unlink(missing_ok=True)
        console.print("stopping: curves at work are finished, the others are left for the next start")
    left = {name: n for name, n in service.left.items() if n}
    if left:
        console.print(f"left for the next start: {', '.join(f'{n} {name}' for name, n in left.items())}")
    if not service.has_ended:
        os._exit(0 if service.failure is None else 1)  # a thread that waits for a server must not hold the exit up
    if service.failure is not None:
        raise CdiStreamError(f"the service died: {service.failure!r}")


def _service(settings: Any, config: Path, sockets: Any) -> Any:
    """Load torch and all that is heavy when the sockets are open: documents that come meanwhile wait there."""
    from cdi_stream.live.serve import running_service
    from cdi_stream.networks.trial import require_answer

    require_answer(settings.network.file, settings.device)
    return running_service(settings, config, sockets)


class Silence:
    """Says now and then that the detector has sent nothing yet; quiet once a message came."""

    def __init__(self, endpoint: str, now_s: float) -> None:
        self._endpoint = endpoint
        self._begin_s = self._told_s = now_s

    def look(self, n_messages: int, now_s: float) -> None:
        """Take the number of messages so far."""
        if not n_messages and now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            _say(
                f"no message from {self._endpoint} for {now_s - self._begin_s:.0f} s, so none at all: is the "
                "detector's stream on? 'cdi-stream check' tells whether it can be reached"
            )


def record(
    endpoint: Annotated[str, typer.Argument(help="The detector's stream, tcp://host:port.")],
    out: Annotated[Path, typer.Option("--out", help="HDF5 file to write.")],
    wire: Annotated[str, typer.Option("--format", help="dectris2, dectris1, array1, or another decoder.")] = "dectris2",
    socket: Annotated[str, typer.Option("--socket", help="pull or sub.")] = "pull",
    bind: Annotated[bool, typer.Option("--bind/--connect", help="Bind, for a detector that connects.")] = False,
    series: Annotated[int, typer.Option(help="Stop after so many series have ended; 0: at Ctrl-C.", min=0)] = 1,
    timeout: Annotated[float | None, typer.Option(help="Stop after so many seconds without a message.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Log the messages here too, byte for byte.")] = None,
    documents: Annotated[
        str | None, typer.Option(help="Out address of a document proxy: motors are recorded with the frames.")
    ] = None,
    serializer: Annotated[
        str, typer.Option(help="How the documents are written: msgpack, json or pickle.")
    ] = "msgpack",
    beamline: Annotated[str | None, typer.Option(help="Beamline plugin that understands the motors.")] = None,
    channel: Annotated[str | None, typer.Option(help="Threshold to record, where there are several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Record a detector's frames, each once, in the data type of the wire."""
    from cdi_stream.assemble.capture import CaptureSettings, capture
    from cdi_stream.config import BusConfig, DetectorConfig
    from cdi_stream.errors import describe_error

    if timeout is not None and not timeout > 0:
        raise InputError(f"--timeout: expected seconds above 0, got {timeout}")
    if beamline is not None:
        registry.load("cdi_stream.beamline", beamline)  # a wrong name is refused now, not at the first replay
    try:
        detector = DetectorConfig(endpoint=endpoint, format=wire, socket=socket, bind=bind, channel=channel)  # type: ignore[arg-type]
        bus = None if documents is None else BusConfig(subscribe=documents, serializer=serializer)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InputError("record:\n" + "\n".join(describe_error(e) for e in error.errors())) from error
    for path in (out, raw):
        _keep_old(path)
    if socket == "pull" and not bind:
        console.print("[yellow]note:[/yellow] a PULL takes frames away from any other puller, such as a file writer;")
        console.print("      'cdi-stream tee' gives to both")
    settings = CaptureSettings(
        detector=detector, out=out, raw=raw, documents=bus, beamline=beamline, n_series=series, timeout_s=timeout
    )
    stopping = StopSignal()
    with console.status(f"waiting for frames from {endpoint}") as status:
        counts = capture(settings, stopping.is_set, lambda n: status.update(f"{n} frames"), _say)
    if "stopped" in counts:
        console.print(f"[red]stopped:[/red] {escape(counts['stopped'])}", highlight=False)
        console.print(
            f"{counts['received']} frames until then are in {escape(str(out))}, which is whole", highlight=False
        )
    show(counts | {"file": str(out.resolve())}, as_json)
    if counts["missing"] or not counts["received"] or "stopped" in counts:
        raise typer.Exit(3)


def _say(line: str) -> None:
    console.print(escape(line), highlight=False)


def _keep_old(path: Path | None) -> None:
    """Put an existing file aside: a beamtime's data are not written over."""
    if path is None or not path.exists() or not path.stat().st_size:
        return
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    console.print(f"[yellow]note:[/yellow] the old {path.name} is kept as {aside.name}", highlight=False)


def tee(
    source: Annotated[str, typer.Argument(help="The detector's stream, tcp://host:port.")],
    push: Annotated[str, typer.Option("--push", help="Where the file writer pulls, tcp://host:port.")],
    publish: Annotated[str, typer.Option("--pub", help="Where onlookers subscribe, tcp://host:port.")],
    as_json: JsonOption = False,
) -> None:
    """Give a detector's stream to a file writer and to onlookers, so that no frame is taken from the writer."""
    from cdi_stream.stream.tee import tee as run_tee

    stopping = StopSignal()
    console.print(f"{source} -> {push} (file writer), {publish} (onlookers); Ctrl-C ends")
    show(dict(run_tee(source, push, publish, max_message_bytes=400_000_000, is_stopped=stopping.is_set)), as_json)


def dashboard(
    config: ConfigOption = None,
    feed: Annotated[
        str | None, typer.Option(help="The service's feed, tcp://host:port, instead of a configuration.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to serve at; another than loopback needs a token.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to serve at; 0 takes a free one.", min=0, max=65535)] = None,
) -> None:
    """Serve the operators' page."""
    from cdi_stream.config import DashboardConfig, read_config
    from cdi_stream.operators.app import run_dashboard
    from cdi_stream.operators.history import FILE_NAME

    settings = None if config is None else read_config(config)
    endpoint = feed or (settings.feed.endpoint if settings is not None else None)
    if endpoint is None:
        raise InputError("dashboard: expected --feed, or --config of a service with feed.endpoint set")
    page = DashboardConfig() if settings is None else settings.dashboard
    place = (host or page.host, page.port if port is None else port)
    console.print(f"http://{place[0]}:{place[1]}/ shows the feed of {endpoint}; Ctrl-C ends")
    history = None if settings is None else settings.publish.directory / FILE_NAME
    if history is None:
        console.print("without --config the last results are kept in memory, and a restart forgets them")
    run_dashboard(endpoint, *place, page.token, history)
