"""From a configuration to a running service: the composition of sockets, plugins, network and sinks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import torch
import zmq

from cdi_stream import bus
from cdi_stream.config import Config, read_image
from cdi_stream.live.announce import Announcer
from cdi_stream.live.assemble import Assembler, AssembleSettings
from cdi_stream.live.chain import ChainSettings, warm_up
from cdi_stream.live.detector import decoder_of, socket_of
from cdi_stream.live.ingest import Ingest, IngestSettings
from cdi_stream.live.journal import Journal
from cdi_stream.live.locate import FixedGeometry
from cdi_stream.live.outgoing import Archive, Outgoing
from cdi_stream.live.pipeline import Parts, Service
from cdi_stream.live.polish import PolishSettings
from cdi_stream.live.prepare import DetectorKnowledge, PrepareSettings
from cdi_stream.live.publish import Provenance
from cdi_stream.live.receive import Receiver
from cdi_stream.live.series import SeriesLimits
from cdi_stream.live.tiled_server import local_tiled
from cdi_stream.networks.torchscript import Network
from cdi_stream.networks.torchscript import load as load_network
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.protocols import Sink
from cdi_stream.refine.backlog import Backlog, BacklogSettings
from cdi_stream.refine.methods import MethodSettings
from cdi_stream.registry import load


@contextlib.contextmanager
def running_service(config: Config, config_file: Path) -> Iterator[Service]:
    """Start the service of a configuration; stop it on the way out.

    ``config_file`` is where the configuration was read from: the worker process reads it too.

    Raises
    ------
    InputError, ServiceError
        If a file, plugin, endpoint or server that the configuration names is not there.
    """
    torch.set_num_threads(config.threads)
    network = load_network(config.network.file, config.device)
    chain = chain_settings(config)
    warm_up(network, chain)
    with contextlib.ExitStack() as stack:
        service = Service(_parts(config, config_file, network, chain, stack))
        service.start()
        try:
            yield service
        finally:
            service.stop()


def _parts(config: Config, config_file: Path, network: Network, chain: ChainSettings, stack: ExitStack) -> Parts:
    """Open what the service needs; ``stack`` closes the sockets and servers after it."""
    directory = config.publish.directory.resolve()
    context = stack.enter_context(zmq.Context())
    receiver = _receiver(config, context)
    stack.callback(receiver.close)
    documents = bus.listen(context, config.documents.subscribe)
    stack.callback(documents.close, 0)
    bus_sink = bus_sink_of(config)
    stack.callback(bus_sink.close)
    provenance = _provenance(config, chain, network)
    journal, announcer = Journal(directory / "journal.json"), Announcer(config.feed.endpoint)
    archive = Archive(_archives(config, stack))
    shapes = {"inference": network.lab_shape, "reconstruction": chain.lab_shape}
    assembler = Assembler(_assemble_settings(config), time.monotonic, time.time)
    return Parts(
        ingest=Ingest(_ingest_settings(config), receiver, documents, assembler, journal, announcer),
        assembler=assembler,
        network=network,
        chain=chain,
        outgoing=Outgoing(provenance, shapes, directory, journal, bus_sink, archive, announcer),
        archive=archive,
        journal=journal,
        announcer=announcer,
        backlog=_backlog(config, config_file, provenance, directory) if config.refine.methods else None,
        max_waiting_bytes=config.publish.max_waiting_bytes,
    )


def bus_sink_of(config: Config, *, is_immediate: bool = False) -> Sink:
    """Sink that publishes to the document bus; ``is_immediate`` drops what is sent while the proxy is away."""
    documents = config.documents
    return load("cdi_stream.sink", "bus")(
        address=documents.publish,
        prefix=documents.prefix,
        serializer=documents.serializer,
        is_immediate=is_immediate,
    )


def chain_settings(config: Config) -> ChainSettings:
    """What the configuration says of the way from curve to crystal."""
    roi = config.detector.roi
    cut = (slice(None), slice(None)) if roi is None else (slice(roi[0], roi[1]), slice(roi[2], roi[3]))
    bad = None if config.detector.bad_pixels is None else read_image(config.detector.bad_pixels)[cut]
    white = None if config.detector.white_field is None else read_image(config.detector.white_field)[cut]
    geometry = config.geometry
    return ChainSettings(
        beamline=geometry.value(),
        fixed=FixedGeometry(**geometry.model_dump(exclude={"beamline", "inline"})),
        known=DetectorKnowledge(
            good_pixels=None if bad is None else bad == 0,
            white_field=None if white is None else white.astype("float32"),
            saturation_counts=config.detector.saturation_counts,
        ),
        prepare=PrepareSettings(max_shape=config.prepare.max_shape, min_counts=config.prepare.min_counts),
        polish=PolishSettings(
            budget_s=config.polish.budget_s,
            most_voxels=config.polish.most_voxels,
            recipe=None if config.polish.recipe is None else parse_recipe(config.polish.recipe),
        ),
        lab_shape=config.publish.lab_shape,
        device=config.device,
    )


def _provenance(config: Config, chain: ChainSettings, network: Network) -> Provenance:
    return Provenance(
        version=version("cdi-stream"),
        config_sha256=config.sha256(network.sha256),
        network_name=f"{network.contract.name} {network.contract.version}",
        network_sha256=network.sha256,
        beamline=chain.beamline.name,
    )


def _ingest_settings(config: Config) -> IngestSettings:
    return IngestSettings(
        prefix=config.documents.prefix,
        serializer=config.documents.serializer,
        preview_every_s=config.publish.preview_every_s,
        frame_every_s=config.feed.frame_every_s,
    )


def _backlog(config: Config, config_file: Path, provenance: Provenance, directory: Path) -> Backlog:
    refine, documents = config.refine, config.documents
    settings = MethodSettings(
        recipe=refine.recipe,
        network_file=config.network.file.resolve(),
        network_steps=refine.network_steps,
        network_recipe=refine.network_recipe,
        budget_s=refine.budget_s,
    )
    parse_recipe(refine.recipe), parse_recipe(refine.network_recipe)  # refused now, not in the night
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
            threads=refine.threads,
        )
    )


def _receiver(config: Config, context: zmq.Context[zmq.Socket[bytes]]) -> Receiver:
    detector = config.detector
    decoder = decoder_of(detector)
    return Receiver(socket_of(detector, context), decoder, detector.max_queue_bytes, is_bound=detector.bind)


def _assemble_settings(config: Config) -> AssembleSettings:
    limits = SeriesLimits(max_images=config.detector.max_images, max_bytes=config.detector.max_series_bytes)
    return AssembleSettings(limits=limits, roi=config.detector.roi, **config.assemble.model_dump())


def _archives(config: Config, stack: ExitStack) -> list[Sink]:
    sinks: list[Sink] = []
    if config.publish.json_lines is not None:
        sinks.append(load("cdi_stream.sink", "json_lines")(path=config.publish.json_lines))
    if config.publish.tiled == "local":
        uri, api_key = stack.enter_context(local_tiled(config.publish.directory.resolve()))
        sinks.append(load("cdi_stream.sink", "tiled")(uri=uri, api_key=api_key))
    elif config.publish.tiled is not None:
        sinks.append(load("cdi_stream.sink", "tiled")(uri=config.publish.tiled, api_key=config.publish.tiled_api_key))
    return sinks
