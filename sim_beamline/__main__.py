"""Processes of the simulated beamline.

``python -m sim_beamline`` starts the whole beamline: motors and detector over Channel Access, the detector's REST
interface and its stream of frames.  Further commands start parts of a replay: ``simulate``, ``detector``, ``proxy``,
``plan``, ``compare``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from cdi_stream.errors import RecordingError
from cdi_stream.files.recording import read_scan, write_scan
from cdi_stream.files.result_file import read_result
from sim_beamline.cases import CASES, simulated_scan
from sim_beamline.faults.menu import MENU, Faults
from sim_beamline.frame_stream import FORMATS

FAULT_OPTION: Mapping[str, object] = {
    "action": "append",
    "default": [],
    "choices": [fault.name for fault in MENU.values() if fault.place != "process"],
    "help": "spoil the run; may be repeated. " + " ".join(f"{fault.name}: {fault.sentence}" for fault in MENU.values()),
}
"""Keywords of the option that names faults of a run."""


def _station(options: argparse.Namespace) -> None:
    from sim_beamline.station import Station, StationSettings

    settings = StationSettings(
        prefix=options.prefix,
        data=options.data,
        rest_port=options.rest_port,
        socket=options.socket,
        wire_format=options.format,
        codec=options.codec,
        case=options.case,
        is_fast=options.fast,
        is_clean=options.clean,
        seed=options.seed,
    )
    station = Station(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rest = f"http://127.0.0.1:{options.rest_port}"
    started = {"frames": options.data, "rest": rest, "motors": sorted(station.instrument.axes)}
    print(json.dumps({**started, "prefix": options.prefix, "detector": f"{options.prefix}eiger:"}), flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        station.close()


def _simulate(options: argparse.Namespace) -> None:
    from sim_beamline.scan import recorded_scan

    write_scan(recorded_scan(options.case), options.out)


def _detector(options: argparse.Namespace) -> None:
    from sim_beamline.detector import run_detector

    ends = (options.data, options.control)
    run_detector(
        read_scan(options.scan),
        *ends,
        options.socket,
        options.codec,
        options.format,
        does_connect=options.connect,
        first_series=options.first_series,
    )


def _proxy(options: argparse.Namespace) -> None:
    from bluesky.callbacks.zmq import Proxy

    Proxy(options.documents_in, options.documents_out).start()


def _plan(options: argparse.Namespace) -> None:
    from sim_beamline.plans import run_plan

    scan = read_scan(options.scan)
    faults = Faults(names=tuple(options.fault), seed=options.fault_seed, n_points=len(scan.frames))
    uid = run_plan(
        scan,
        options.control,
        options.documents,
        n_curves=options.curves,
        speed=None if options.speed == "max" else float(options.speed),
        pause_s=options.pause,
        prefix=options.prefix,
        serializer=options.serializer,
        faults=faults,
    )
    print(json.dumps({"run_uid": uid}))


def _compare(options: argparse.Namespace) -> None:
    from sim_beamline.compare import nmse, nmse_forbidden, truth_on_grid

    try:
        result = read_result(options.file)
    except RecordingError:
        print(json.dumps({"nmse_to_truth_lab": None, "nmse_forbidden": None}))
        return
    truth = truth_on_grid(
        simulated_scan(options.case).crystal,
        result.affine.q0,
        result.affine.sample_to_lab,
        result.density.shape,
        float(result.voxel_m[0]),
    )
    errors = {"nmse_to_truth_lab": nmse(truth, result.density), "nmse_forbidden": nmse_forbidden(truth, result.density)}
    print(json.dumps(errors))


def main() -> None:
    """Run the process that the command line names."""
    parser = argparse.ArgumentParser(prog="sim_beamline")
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: object, **options: Mapping[str, object]) -> None:
        """Add a command, with the keywords of its options for `argparse`."""
        sub = commands.add_parser(name)
        for option, keywords in options.items():
            sub.add_argument(f"--{option.replace('_', '-')}", **keywords)  # type: ignore[arg-type]
        sub.set_defaults(run=run)

    text, path = {"required": True}, {"required": True, "type": Path}
    streams = {
        "socket": {"choices": ("push", "pub"), "default": "push"},
        "codec": {"choices": ("raw", "lz4", "bslz4"), "default": "bslz4"},
        "format": {"choices": FORMATS, "default": "dectris2"},
    }
    command(
        "station",
        _station,
        prefix={"default": "SIM:", "help": "begin of the names of all process variables"},
        data={"default": "tcp://127.0.0.1:31001", "help": "address of the stream of frames"},
        rest_port={"type": int, "default": 8080, "help": "port of the detector's REST interface"},
        case={"choices": CASES, "default": "plain", "help": "geometry and crystal"},
        fast={"action": "store_true", "help": "motors and exposures take no time"},
        clean={"action": "store_true", "help": "no decay, drift, play, dead or hot pixels, gaps and aliens"},
        seed={"type": int, "default": 1},
        **streams,
    )
    command("simulate", _simulate, case={"choices": CASES, "default": "demo"}, out=path)
    command(
        "detector",
        _detector,
        scan=path,
        data=text,
        control=text,
        connect={"action": "store_true"},
        first_series={"type": int, "help": "id of the first series; by default made of the time"},
        **streams,
    )
    command("proxy", _proxy, documents_in=text, documents_out=text)
    command(
        "plan",
        _plan,
        scan=path,
        control=text,
        documents=text,
        curves={"type": int, "default": 1},
        speed={"default": "max"},
        pause={"type": float, "default": 0.0},
        prefix={"default": ""},
        serializer={"default": "msgpack"},
        fault=FAULT_OPTION,
        fault_seed={"type": int, "default": 0, "help": "seed of the points that the faults hit"},
    )
    command("compare", _compare, case={"choices": CASES, "required": True}, file=path)
    arguments = sys.argv[1:]
    is_station = not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"))
    options = parser.parse_args(["station", *arguments] if is_station else arguments)
    options.run(options)


if __name__ == "__main__":
    main()
