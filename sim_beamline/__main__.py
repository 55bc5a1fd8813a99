"""Processes of the simulated beamline: ``python -m sim_beamline {simulate,detector,proxy,plan,compare}``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from cdi_stream.errors import RecordingError
from cdi_stream.files.recording import read_scan, write_scan
from cdi_stream.files.result_file import read_result
from sim_beamline.cases import CASES, simulated_scan
from sim_beamline.faults.menu import MENU, Faults


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
    command("simulate", _simulate, case={"choices": CASES, "default": "demo"}, out=path)
    command(
        "detector",
        _detector,
        scan=path,
        data=text,
        control=text,
        socket={"choices": ("push", "pub"), "default": "push"},
        connect={"action": "store_true"},
        first_series={"type": int, "help": "id of the first series; by default made of the time"},
        codec={"choices": ("raw", "lz4", "bslz4"), "default": "bslz4"},
        format={"choices": ("dectris2", "dectris1", "array1"), "default": "dectris2"},
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
        fault={
            "action": "append",
            "default": [],
            "choices": [fault.name for fault in MENU.values() if fault.place != "process"],
            "help": "spoil the run; may be repeated. " + " ".join(f"{f.name}: {f.sentence}" for f in MENU.values()),
        },
        fault_seed={"type": int, "default": 0, "help": "seed of the points that the faults hit"},
    )
    command("compare", _compare, case={"choices": CASES, "required": True}, file=path)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
