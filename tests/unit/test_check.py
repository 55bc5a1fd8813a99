"""Checks of a deployment: they use the sockets of the service, and take no frame from any receiver."""

from __future__ import annotations

import contextlib
import socket

import pytest
import zmq

from cdi_stream.config import Config
from cdi_stream.live.check import check_config
from tests.unit.test_addresses import needs_ipv6

HOSTS = ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)]


def written(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class Deployment:
    """Real sockets of a beamline, and the configuration for them."""

    def __init__(self, host: str, folder, stack: contextlib.ExitStack) -> None:
        self._context = stack.enter_context(zmq.Context())
        self._stack, self._host, self._folder = stack, host, folder

    def bound(self, kind: int) -> tuple[zmq.Socket[bytes], str]:
        """Return a 0MQ socket that is bound, with its address."""
        one = self._stack.enter_context(self._context.socket(kind))
        one.setsockopt(zmq.IPV6, ":" in self._host)
        one.linger = 0
        return one, written(self._host, one.bind_to_random_port(written(self._host, 0).rpartition(":")[0]))

    def silent(self) -> str:
        """Return the address of a server that does not speak 0MQ."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        server = self._stack.enter_context(socket.socket(family))
        server.bind((self._host, 0))
        server.listen()
        return written(self._host, server.getsockname()[1])

    def absent(self) -> str:
        """Return an address at which no program listens."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as server:
            server.bind((self._host, 0))
            return written(self._host, server.getsockname()[1])

    def found(self, endpoint: str, subscribe: str, publish: str, **detector):
        """Return the findings about detector and documents."""
        config = Config.model_validate(
            {
                "detector": {"endpoint": endpoint, **detector},
                "documents": {"subscribe": subscribe, "publish": publish},
                "geometry": {"beamline": "aps_34idc"},
                "publish": {"directory": self._folder, "tiled": "none"},
            }
        )
        findings = {finding.name: finding for finding in check_config(config)}
        return findings["detector"], findings["documents"]


@pytest.fixture(params=HOSTS)
def deployment(request, tmp_path, monkeypatch):
    monkeypatch.setattr("cdi_stream.live.check.load_network", lambda *_: pytest.fail("not about networks"))
    monkeypatch.setattr("cdi_stream.live.check.REACH_S", 0.7)
    monkeypatch.setattr("cdi_stream.live.check._network", lambda _: "not looked at")
    with contextlib.ExitStack() as stack:
        yield Deployment(request.param, tmp_path, stack)


def test_what_answers_is_good_and_no_frame_is_taken(deployment):
    detector, endpoint = deployment.bound(zmq.PUSH)
    (_, subscribe), (_, publish) = deployment.bound(zmq.XPUB), deployment.bound(zmq.XSUB)
    for finding in deployment.found(endpoint, subscribe, publish):
        assert finding.is_ok, finding.text
    with pytest.raises(zmq.Again):  # it has no receiver: nobody was there to take it
        detector.send(b"frame", zmq.NOBLOCK)


def test_nobody_and_strangers_are_told_apart(deployment):
    absent, documents = deployment.found(deployment.absent(), deployment.absent(), deployment.absent())
    assert "no program listens" in absent.text
    assert "start bluesky-0MQ-proxy" in documents.text
    stranger, _ = deployment.found(deployment.silent(), deployment.absent(), deployment.absent())
    assert not stranger.is_ok
    assert "does not speak 0MQ" in stranger.text


def test_an_address_to_bind_that_is_taken_is_told(deployment):
    _, endpoint = deployment.bound(zmq.PULL)
    taken, _ = deployment.found(endpoint, deployment.absent(), deployment.absent(), bind=True)
    assert not taken.is_ok
    assert "in use" in taken.text
    free, _ = deployment.found(deployment.absent(), deployment.absent(), deployment.absent(), bind=True)
    assert free.is_ok, free.text
