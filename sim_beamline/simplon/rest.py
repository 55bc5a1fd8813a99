"""REST interface of the simulated camera in the style of SIMPLON, on loopback.

Paths are ``/detector/api/VERSION/{config,command,status}/NAME`` and ``/stream/api/VERSION/{config,status}/NAME``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import asdict

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from cdi_stream.errors import InputError
from sim_beamline.simplon.camera import Camera

VERSIONS = ("1.6.0", "1.8.0")
"""Versions of the interface whose paths are answered."""

_APPENDICES = ("header_appendix", "image_appendix")


class Value(BaseModel):
    """Body of a request that sets a value."""

    value: object


def camera_app(camera: Camera) -> FastAPI:
    """Return the REST application of a camera, with ``config``, ``command`` and ``status`` below ``/detector/api``."""
    app = FastAPI(title="Simulated detector")
    commands = {
        "initialize": camera.disarm,
        "arm": lambda: {"sequence id": camera.arm()},
        "trigger": camera.trigger,
        "disarm": camera.disarm,
        "cancel": camera.disarm,
        "abort": camera.abort,
    }

    @app.put("/detector/api/{version}/command/{command}")
    def command(version: str, command: str) -> object:
        """Execute a command; ``trigger`` answers after the last image."""
        _known(version, VERSIONS)
        return _answer(commands[_known(command, commands)]) or {}

    @app.get("/{module}/api/{version}/config/{name}")
    def read(module: str, version: str, name: str) -> object:
        """Return a setting."""
        _known(version, VERSIONS)
        return {"value": _settings(camera, module)[_known(name, _settings(camera, module))]}

    @app.put("/{module}/api/{version}/config/{name}")
    def write(module: str, version: str, name: str, body: Value) -> object:
        """Change a setting, and return the names of the settings that changed."""
        _known(version, VERSIONS)
        _known(name, _settings(camera, module))
        _answer(lambda: camera.put(name, body.value))
        return [name]

    @app.get("/{module}/api/{version}/status/{name}")
    def status(module: str, version: str, name: str) -> object:
        """Return the state of the detector, or of its stream."""
        _known(version, VERSIONS)
        states: dict[str, dict[str, object]] = {
            "detector": {"state": camera.state.state},
            "stream": {"state": "ready", "dropped": 0},
        }
        return {"value": states[_known(module, states)][_known(name, states[module])]}

    return app


class CameraServer:
    """Serves the REST interface in a thread, on 127.0.0.1."""

    def __init__(self, camera: Camera, port: int) -> None:
        config = uvicorn.Config(camera_app(camera), host="127.0.0.1", port=port, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._server.should_exit = True
        self._thread.join(5)


def _settings(camera: Camera, module: str) -> dict[str, object]:
    """Return the settings of the module ``detector`` or ``stream``."""
    values = asdict(camera.settings)
    stream = {name: values[name] for name in _APPENDICES}
    modules = {"detector": {k: v for k, v in values.items() if k not in _APPENDICES}, "stream": stream}
    return modules[_known(module, modules)]


def _known(name: str, names: Collection[str]) -> str:
    if name not in names:
        raise HTTPException(404, f"expected one of {', '.join(names)}, got {name!r}")
    return name


def _answer(act: Callable[[], object]) -> object:
    """Execute an act; bad input is answered with status 400 and its sentence."""
    try:
        return act()
    except InputError as error:
        raise HTTPException(400, str(error)) from error
