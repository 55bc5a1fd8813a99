"""From a configuration to a running service: the composition of sockets, plugins, network and sinks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from importlib.metadata import version

import torch
import zmq

from cdi_stream import bus
from cdi_stream.config import Config, read_image
from cdi_stream.live.assemble import Assembler, AssembleSettings
from cdi_stream.live.chain import ChainSettings, warm_up
from cdi_stream.live.locate import FixedGeometry
from cdi_stream.live.pipeline import Service, ServiceSettings
from cdi_stream.live.prepare import DetectorKnowledge, PrepareSettings
from cdi_stream.live.publish import Provenance
from cdi_stream.live.receive import Receiver, open_socket
from cdi_stream.live.series import SeriesLimits
from cdi_stream.live.tiled_server import local_tiled
from cdi_stream.networks.torchscript import Network
from cdi_stream.networks.torchscript import load as load_network
from cdi_stream.phasing.recipe import SupportUpdate, parse_recipe
from cdi_stream.protocols import Decoder, DecoderFactory, Sink
from cdi_stream.registry import load


@contextlib.contextmanager
def running_service(config: Config) -> Iterator[Service]:
    """Start the service of a configuration; stop it on the way out.

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
        context = stack.enter_context(zmq.Context())
        detector = open_socket(
            context,
            config.detector.endpoint,
            config.detector.socket,
            bind=config.detector.bind,
            max_message_bytes=config.detector.max_message_bytes,
        )
        stack.callback(detector.close, 0)
        documents = bus.listen(context, config.documents.subscribe)
        stack.callback(documents.close, 0)
        bus_sink: Sink = load("cdi_stream.sink", "bus")(
            address=config.documents.publish, prefix=config.documents.prefix, serializer=config.documents.serializer
        )
        service = Service(
            _service_settings(config, chain, network),
            Receiver(detector, _decoder(config), config.detector.max_queue_bytes),
            documents,
            Assembler(_assemble_settings(config), time.monotonic, time.time),
            network,
            bus_sink,
            _archives(config, stack),
        )
        service.start()
        try:
            yield service
        finally:
            service.stop()


def chain_settings(config: Config) -> ChainSettings:
    """What the configuration says of the way from curve to crystal."""
    roi = config.detector.roi
    cut = (slice(None), slice(None)) if roi is None else (slice(roi[0], roi[1]), slice(roi[2], roi[3]))
    bad = None if config.detector.bad_pixels is None else read_image(config.detector.bad_pixels)[cut]
    white = None if config.detector.white_field is None else read_image(config.detector.white_field)[cut]
    geometry = config.geometry
    polish = config.polish
    update = SupportUpdate(every=polish.every, threshold=polish.threshold, sigma_vox=polish.sigma_vox, border_only=True)
    return ChainSettings(
        beamline=geometry.value(),
        fixed=FixedGeometry(**geometry.model_dump(exclude={"beamline", "inline"})),
        known=DetectorKnowledge(
            good_pixels=None if bad is None else bad == 0,
            white_field=None if white is None else white.astype("float32"),
            saturation_counts=config.detector.saturation_counts,
        ),
        prepare=PrepareSettings(max_shape=config.prepare.max_shape, min_counts=config.prepare.min_counts),
        recipe=parse_recipe(polish.recipe, update),
        lab_shape=config.publish.lab_shape,
        device=config.device,
    )


def _service_settings(config: Config, chain: ChainSettings, network: Network) -> ServiceSettings:
    return ServiceSettings(
        chain=chain,
        provenance=Provenance(
            version=version("cdi-stream"),
            config_sha256=config.sha256(network.sha256),
            network_name=f"{network.contract.name} {network.contract.version}",
            network_sha256=network.sha256,
            beamline=chain.beamline.name,
        ),
        directory=config.publish.directory.resolve(),
        preview_every_s=config.publish.preview_every_s,
        prefix=config.documents.prefix,
        serializer=config.documents.serializer,
    )


def _assemble_settings(config: Config) -> AssembleSettings:
    limits = SeriesLimits(max_images=config.detector.max_images, max_bytes=config.detector.max_series_bytes)
    return AssembleSettings(limits=limits, roi=config.detector.roi, **config.assemble.model_dump())


def _decoder(config: Config) -> Decoder:
    factory: DecoderFactory = load("cdi_stream.decoder", config.detector.format)
    return factory(roi=config.detector.roi, channel=config.detector.channel, max_pixels=config.detector.max_pixels)


def _archives(config: Config, stack: contextlib.ExitStack) -> list[Sink]:
    sinks: list[Sink] = []
    if config.publish.json_lines is not None:
        sinks.append(load("cdi_stream.sink", "json_lines")(path=config.publish.json_lines))
    if config.publish.tiled == "local":
        uri, api_key = stack.enter_context(local_tiled(config.publish.directory.resolve()))
        sinks.append(load("cdi_stream.sink", "tiled")(uri=uri, api_key=api_key))
    elif config.publish.tiled is not None:
        sinks.append(load("cdi_stream.sink", "tiled")(uri=config.publish.tiled, api_key=config.publish.tiled_api_key))
    return sinks
