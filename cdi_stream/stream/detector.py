"""Decoder and socket of a detector, built from its configuration; shared by the service and by recordings."""

from __future__ import annotations

import zmq

from cdi_stream.config import DetectorConfig
from cdi_stream.protocols import Decoder, DecoderFactory
from cdi_stream.registry import load
from cdi_stream.stream.receive import open_socket


def decoder_of(detector: DetectorConfig) -> Decoder:
    """Return the decoder of a detector's format; raises `PluginError` if the format has none."""
    factory: DecoderFactory = load("cdi_stream.decoder", detector.format)
    return factory(roi=detector.roi, channel=detector.channel, max_pixels=detector.max_pixels)


def socket_of(detector: DetectorConfig, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Return the open socket of a detector; raises `EndpointError` if it cannot be opened."""
    return open_socket(
        context,
        detector.endpoint,
        detector.socket,
        bind=detector.bind,
        max_message_bytes=detector.max_message_bytes,
    )
