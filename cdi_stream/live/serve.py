"""The service of a configuration, composed of sockets, plugins, network and sinks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import zmq

from cdi_stream.alarms import Alarms
from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.incoming import Incoming
from cdi_stream.assemble.partial import AHEAD_FRACTIONS
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.config import Config, MethodConfig, PublishConfig, read_image
from cdi_stream.disk.result_folder import keys_of
from cdi_stream.disk.retention import Retention
from cdi_stream.disk.space import SpaceGuard
from cdi_stream.documents import bus
from cdi_stream.documents.delivery import ArchiveDelivery, BusDelivery
from cdi_stream.documents.publish import Provenance
from cdi_stream.documents.readings import ReadingNames
from cdi_stream.documents.spool import Spool
from cdi_stream.documents.tiled_server import local_tiled
from cdi_stream.inversion.chain import ChainSettings, warm_up
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.inversion.pixels import DetectorKnowledge
from cdi_stream.live.housekeeping import Housekeeping
from cdi_stream.live.ingest import Ingest, IngestSettings
from cdi_stream.live.outgoing import Outgoing
from cdi_stream.live.pipeline import Parts, Service
from cdi_stream.live.previous import previous_crystal
from cdi_stream.live.resources import resources
from cdi_stream.live.sockets import Sockets
from cdi_stream.networks.torchscript import Network
from cdi_stream.networks.torchscript import load as load_network
from cdi_stream.operators.announce import Announcer
from cdi_stream.protocols import Sink
from cdi_stream.refine.backlog import Backlog, BacklogSettings
from cdi_stream.registry import load
from cdi_stream.stream.detector import decoder_of, socket_of
from cdi_stream.stream.receive import Receiver
from cdi_stream.stream.series import SeriesLimits


@contextlib.contextmanager
def running_service(config: Config, config_file: Path, sockets: Sockets) -> Iterator[Service]:
    """Yield the running service of a configuration; it stops with the context.

    Parameters
    ----------
    config
        Configuration.
    config_file
        File of the configuration; the worker process reads it too.
    sockets
        Open sockets, which receive messages while the network is loaded.

    Raises
    ------
    InputError, ServiceError
        If the configuration names a file, plugin, endpoint or server that is not available.
    """
    torch.set_num_threads(config.threads)
    network = load_network(config.network.file, config.device)
    chain = chain_settings(config)
    warm_up(network, chain)
    with contextlib.ExitStack() as stack:
        service = Service(_parts(config, config_file, network, chain, sockets, stack))
        service.start()
        try:
            yield service
        finally:
            service.stop()


def _parts(
    config: Config, config_file: Path, network: Network, chain: ChainSettings, sockets: Sockets, stack: ExitStack
) -> Parts:
    """Return the parts of the service; ``stack`` closes sockets and servers at the end."""
    directory = config.publish.directory.resolve()
    alarms = Alarms()
    archives = _archives(config, stack, alarms)
    spool = Spool(directory, tuple(name for name, _ in archives), alarms)
    receiver = _receiver(config, sockets)
    stack.callback(receiver.close)
    delivery = BusDelivery(
        spool, bus_sink_of(config, is_immediate=True), _received_uids(sockets.delivery_monitor, config), alarms
    )
    provenance = provenance_of(config, chain, network)
    announcer = Announcer(config.feed.endpoint, secret=config.feed.secret)
    incoming = Incoming((config.assemble.directory or directory / "incoming").resolve())
    shapes = {"preview": network.lab_shape, "inference": network.lab_shape, "reconstruction": chain.lab_shape}
    assembler = Assembler(assemble_settings(config, chain), time.monotonic, time.time, incoming)
    return Parts(
        ingest=Ingest(_ingest_settings(config), receiver, sockets.documents, assembler, announcer, alarms),
        assembler=assembler,
        decode=decoder_of(config.detector).decode,
        network=network,
        chain=chain,
        outgoing=Outgoing(
            provenance, shapes, config.publish.results, spool, delivery.push, announcer, alarms, done=incoming.discard
        ),
        spool=spool,
        bus=delivery,
        previous=partial(previous_crystal, config.publish.results),
        archives=tuple(ArchiveDelivery(name, spool, make, alarms) for name, make in archives),
        announcer=announcer,
        backlog=_backlog(config, config_file, provenance, directory) if config.refine.methods else None,
        alarms=alarms,
        max_waiting_bytes=config.publish.max_waiting_bytes,
        resources=partial(resources, directory),
        keep_house=_housekeeping(config, directory, alarms).run,
    )


def _housekeeping(config: Config, directory: Path, alarms: Alarms) -> Housekeeping:
    return Housekeeping(
        retention=Retention(directory, config.retention.days),
        guard=SpaceGuard(directory, config.retention.least_free_bytes),
        alarms=alarms,
    )


def _received_uids(socket: zmq.Socket[bytes], config: Config) -> Callable[[int], Iterator[str]]:
    """Return the function that yields the uids of documents that come on the bus within a time [ms]."""
    read = bus.reader(config.documents.serializer)

    def received_uids(timeout_ms: int) -> Iterator[str]:
        """Yield the uids of the documents that come within ``timeout_ms``."""
        for _, doc in bus.receive(socket, config.documents.prefix, read, timeout_ms, on_unusable=lambda _: None):
            if isinstance(uid := doc.get("uid"), str):
                yield uid

    return received_uids


def bus_sink_of(config: Config, *, is_immediate: bool = False) -> Sink:
    """Return a sink that publishes to the document bus; ``is_immediate``: drop documents while the proxy is down."""
    documents = config.documents
    result: Sink = load("cdi_stream.sink", "bus")(
        address=documents.publish,
        prefix=documents.prefix,
        serializer=documents.serializer,
        curve=documents.curve,
        is_immediate=is_immediate,
    )
    return result


def chain_settings(config: Config) -> ChainSettings:
    """Return the settings of the steps from a curve to a crystal."""
    roi = config.detector.roi
    window = (slice(None), slice(None)) if roi is None else (slice(roi[0], roi[1]), slice(roi[2], roi[3]))
    bad_pixels = None if config.detector.bad_pixels is None else read_image(config.detector.bad_pixels)[window]
    white_field = None if config.detector.white_field is None else read_image(config.detector.white_field)[window]
    geometry = config.geometry
    return ChainSettings(
        beamline=geometry.value(),
        fixed=geometry,
        detector=DetectorKnowledge(
            good_pixels=None if bad_pixels is None else bad_pixels == 0,
            white_field=None if white_field is None else white_field.astype("float32"),
            saturation_counts=config.detector.saturation_counts,
        ),
        prepare=config.prepare,
        phase=config.phase,
        lab_shape=config.publish.lab_shape,
        device=config.device,
    )


def provenance_of(config: Config, chain: ChainSettings, network: Network) -> Provenance:
    """Return what each run of a configuration says of its making."""
    return Provenance(
        version=version("cdi-stream"),
        config_sha256=config.sha256(network.sha256),
        network_name=f"{network.contract.name} {network.contract.version}",
        network_sha256=network.sha256,
        beamline=chain.beamline.name,
    )


def _ingest_settings(config: Config) -> IngestSettings:
    return IngestSettings(
        progress_every_s=config.publish.preview_every_s,
        frame_every_s=config.feed.frame_every_s,
    )


def _backlog(config: Config, config_file: Path, provenance: Provenance, directory: Path) -> Backlog:
    """Return the backlog of the refinements; raises an error if a recipe is invalid."""
    refine, documents = config.refine, config.documents
    settings = MethodSettings(
        **refine.model_dump(include=set(MethodConfig.model_fields)), network_file=config.network.file.resolve()
    )
    return Backlog(
        BacklogSettings(
            methods=refine.methods,
            method_settings=settings,
            provenance=provenance,
            lab_shape=config.publish.lab_shape,
            directory=directory,
            config_file=config_file.resolve(),
            subscribe=documents.subscribe,
            prefix=documents.prefix,
            serializer=documents.serializer,
            curve=documents.curve,
            threads=refine.threads,
            processes=refine.processes,
            lease_s=refine.lease_s,
            keep_done_s=86_400.0 * refine.keep_done_days,
            keep_done_jobs=refine.keep_done_jobs,
        )
    )


def _receiver(config: Config, sockets: Sockets) -> Receiver:
    detector = config.detector
    decoder = decoder_of(detector)
    return Receiver(
        sockets.detector or socket_of(detector, sockets.context),
        decoder,
        detector.max_queue_bytes,
        is_bound=detector.bind,
    )


def assemble_settings(config: Config, chain: ChainSettings) -> AssembleSettings:
    """Return the settings of the assembler; circles and energy of the beamline are its motors."""
    assemble, beamline, names = config.assemble, chain.beamline, config.documents
    limits = SeriesLimits(max_images=config.detector.max_images, max_bytes=config.detector.max_series_bytes)
    circles = beamline.sample_circles + beamline.detector_circles
    motors = {name for circle in circles for name in (circle.name, *circle.motors)}
    return AssembleSettings(
        late_grace_s=assemble.late_grace_s,
        reading_timeout_s=assemble.reading_timeout_s,
        idle_timeout_s=assemble.idle_timeout_s,
        monitor=assemble.monitor,
        limits=limits,
        max_total_bytes=min(2 * config.detector.max_series_bytes, memory_bytes() // 4),
        roi=config.detector.roi,
        motors=frozenset(motors | {name for name, _ in beamline.energy_readings}),
        names=ReadingNames(series=names.series_readings, image=names.image_readings),
        copied_keys=(*config.publish.copied_keys, *keys_of(config.publish.folder)),
        preview_fractions=config.publish.preview_fractions,
        ahead_fractions=AHEAD_FRACTIONS,
    )


def memory_bytes() -> int:
    """Return the size of this machine's memory [bytes]."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _archives(config: Config, stack: ExitStack, alarms: Alarms) -> list[tuple[str, Callable[[], Sink]]]:
    """Return the archives by name, each with the function that opens it."""
    publish = config.publish
    archives: list[tuple[str, Callable[[], Sink]]] = []
    if publish.json_lines is not None:
        archives.append(("json_lines", partial(load("cdi_stream.sink", "json_lines"), path=publish.json_lines)))
    if publish.epics_prefix is not None:
        archives.append(("epics", _epics_sink_of(publish)))
    if publish.tiled is None:
        return archives
    make = load("cdi_stream.sink", "tiled")
    if publish.tiled != "local":
        return [*archives, ("tiled", partial(make, uri=publish.tiled, api_key=publish.tiled_api_key))]
    directory = publish.directory.resolve()
    server = stack.enter_context(local_tiled(directory, publish.tiled_port, publish.tiled_api_key, alarms))

    def make_local() -> Sink:
        """Return a sink to the local server, which must answer first."""
        server.require_answer()
        sink: Sink = make(uri=server.uri, api_key=server.api_key)
        return sink

    return [*archives, ("tiled", make_local)]


def _epics_sink_of(publish: PublishConfig) -> Callable[[], Sink]:
    """Return the function that opens the sink of EPICS variables."""
    return partial(
        load("cdi_stream.sink", "epics"),
        prefix=publish.epics_prefix,
        interfaces=tuple(map(str, publish.epics_interfaces)),
        port=publish.epics_port,
    )
