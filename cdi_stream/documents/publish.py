"""Publish: results as Bluesky documents, arrays as closed HDF5 files beside them.

One run of ours for each raw run.  Uids are derived from the raw run, the stage and the configuration, so a
repeat after a crash is recognised.  Events are never rewritten; a volume never travels inside one.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from event_model import ComposeRunBundle, DocumentNames, compose_run, schema_validators
from jsonschema import ValidationError

from cdi_stream.documents.own import SOURCE
from cdi_stream.documents.plain import to_plain
from cdi_stream.files.result_file import ARRAYS, LATTICE_ARRAYS, result_file, result_numbers, write_result
from cdi_stream.geometry.affine import Shape
from cdi_stream.messages import CurveProgress, FrameAccount, Result, RunContext
from cdi_stream.metrics import UNITS

logger = logging.getLogger(__name__)

NAMESPACE = uuid.UUID("6f1f9a0e-6f0e-5b53-9a3e-0f5d9a1c2b77")
"""Root of all uids derived here."""

PREVIEW = "preview"
"""Stream of the crystals of curves that are still measured."""

ExitStatus = Literal["success", "abort", "fail"]
Emit = Callable[[str, Mapping[str, Any]], None]

_COUNTS = (
    "curve_index",
    "frames_expected",
    "frames_received",
    "frames_missing",
    "frames_duplicate",
    "frames_late",
    "frames_bad",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Version, network and configuration that made a run of this service."""

    version: str
    config_sha256: str
    network_name: str
    network_sha256: str
    beamline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """File of a published result; ``problem`` is the reason why its arrays are not on disk, None if they are."""

    path: Path
    seq_num: int
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Uid, stage and parent runs of a run of this service."""

    uid: str
    stage: str = "reconstruction"
    parents: tuple[str, ...] = ()


def arrays_of(stream: str) -> dict[str, str]:
    """Return the arrays of each result of a stream, with their data types; a first answer has no lattice maps."""
    return ARRAYS if stream in ("inference", PREVIEW) else ARRAYS | LATTICE_ARRAYS


def start_values(run: RunContext) -> dict[str, object]:
    """Return the values of a run that may name the folder of its results."""
    return {**run.metadata, "sample": run.sample, "scan_id": run.scan_id, "plan_name": run.plan_name}


def derived_uid(*parts: str) -> str:
    """Uid that is the same whenever the parts are."""
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))


def reconstruction_identity(raw_uid: str, config_sha256: str, attempt: int = 0) -> Identity:
    """Identity of the run that reconstructs a raw one; ``attempt`` counts services that died over it."""
    parts = [raw_uid, "reconstruction", config_sha256] + ([f"attempt {attempt}"] if attempt else [])
    return Identity(uid=derived_uid(*parts))


class RunPublisher:
    """Documents of one run of ours, which belongs to one raw run.

    ``shapes`` fixes the array shape of each stream.
    """

    def __init__(
        self,
        context: RunContext,
        provenance: Provenance,
        shapes: Mapping[str, Shape],
        directory: Path,
        emit: Emit,
        identity: Identity,
    ) -> None:
        self.uid = identity.uid
        self._identity = identity
        self._context = context
        self._provenance = provenance
        self._shapes = shapes
        self._directory = directory
        self._emit = emit
        self._run: ComposeRunBundle | None = None
        self._streams: dict[str, Any] = {}
        self._n_events: dict[str, int] = {}

    @property
    def is_open(self) -> bool:
        """Whether documents of the run may still be published."""
        return self._run is not None

    def progress(self, progress: CurveProgress) -> None:
        """Publish how far a curve has come."""
        data = _account_data(progress.account, progress.curve_index) | {"series": str(progress.series)}
        self._event("progress", data)

    def result(self, result: Result, clock: Callable[[], float] = time.monotonic) -> Published:
        """Write the arrays, then publish one event of ``result.stream``.

        Where the disk takes no arrays the event goes out with ``arrays: pending``; `complete` brings them later.  A
        preview is then not published at all.
        """
        seq_num = self._n_events.get(result.stream, 0) + 1
        path = self._directory / f"{self.uid}_{seq_num:04d}_{result.stream}.h5"
        data = _result_data(result) | {"file": str(path), "arrays": "stored"}
        problem = self._written(path, result, data)
        if problem is not None and result.stream == PREVIEW:
            return Published(path=path, seq_num=seq_num, problem=problem)
        if problem is not None:
            data["arrays"] = "pending"
        data["latency_s"] = clock() - result.complete_s
        if problem is None:
            self._name_arrays(result.stream, data, seq_num, path)
        self._event(result.stream, data)
        return Published(path=path, seq_num=seq_num, problem=problem)

    def complete(self, result: Result, published: Published) -> str | None:
        """Write the arrays of a result whose event is out without; returns why that cannot be done, None if it is."""
        data = _result_data(result) | {"file": str(published.path), "arrays": "stored"}
        problem = self._written(published.path, result, data)
        if problem is None:
            self._name_arrays(result.stream, data, published.seq_num, published.path)
        return problem

    def _written(self, path: Path, result: Result, data: Mapping[str, Any]) -> str | None:
        shape = self._shapes[result.stream]
        try:
            content = result_file(
                result.crystal,
                shape,
                data,
                self._about(),
                result.frame_sums,
                readings=result.readings,
                arrays=arrays_of(result.stream),
            )
            write_result(path, content)
        except OSError as error:
            return f"{path.parent} takes no files: {error}"
        return None

    def _about(self) -> dict[str, Any]:
        """Return the names of the measurement that a result file holds, so that the file explains itself."""
        context = self._context
        known = {
            "raw_uid": context.uid,
            "run_uid": self.uid,
            "scan_id": context.scan_id,
            "sample": context.sample,
            "plan_name": context.plan_name,
            "motors": ", ".join(context.motors) or None,
        }
        return {key: value for key, value in known.items() if value is not None}

    def close(self, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """Publish the stop document; nothing happens if nothing was published."""
        if self._run is not None:
            self._emit("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))
            self._run = None

    def _name_arrays(self, stream: str, data: Mapping[str, Any], seq_num: int, path: Path) -> None:
        """Publish where the arrays of an event lie."""
        descriptor = self._stream(stream, data)
        assert self._run is not None
        assert self._run.compose_stream_resource is not None
        for name in arrays_of(stream):
            resource = self._run.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost{path.resolve()}",
                data_key=f"{stream}_{name}",
                parameters={
                    "dataset": f"/entry/data/{name}",
                    "chunk_shape": [1, *self._shapes[stream]],
                    "join_method": "stack",
                    "swmr": False,
                },
                uid=derived_uid(self.uid, stream, name, str(seq_num)),
            )
            self._emit("stream_resource", resource.stream_resource_doc)
            datum = resource.compose_stream_datum(
                indices={"start": seq_num - 1, "stop": seq_num},
                seq_nums={"start": seq_num, "stop": seq_num + 1},
                descriptor=descriptor.descriptor_doc,
            )
            self._emit("stream_datum", datum)

    def _event(self, stream: str, data: dict[str, Any]) -> None:
        descriptor = self._stream(stream, data)
        seq_num = self._n_events[stream] = self._n_events.get(stream, 0) + 1
        now = time.time()
        uid = derived_uid(self.uid, stream, "event", str(seq_num))
        plain = {f"{stream}_{key}": value for key, value in data.items()}
        self._emit(
            "event", descriptor.compose_event(data=plain, timestamps=dict.fromkeys(plain, now), time=now, uid=uid)
        )

    def _stream(self, stream: str, data: Mapping[str, Any]) -> Any:
        if self._run is None:
            self._run = compose_run(uid=self.uid, metadata=self._metadata())
            self._emit("start", self._run.start_doc)
        if stream not in self._streams:
            keys = {f"{stream}_{key}": _data_key(key, value) for key, value in data.items()}
            if stream in self._shapes:
                keys |= {
                    f"{stream}_{name}": _array_key(dtype, self._shapes[stream])
                    for name, dtype in arrays_of(stream).items()
                }
            bundle = self._run.compose_descriptor(
                name=stream,
                data_keys=keys,
                uid=derived_uid(self.uid, stream, "descriptor"),
                validate=False,  # takes as long as ten transforms, for keys that this module makes; tests validate
            )
            self._streams[stream] = bundle
            self._emit("descriptor", bundle.descriptor_doc)
        return self._streams[stream]

    def _metadata(self) -> dict[str, Any]:
        p = self._provenance
        metadata: dict[str, Any] = {
            "original_run_uid": self._context.uid,
            "parent_uids": [self._context.uid, *self._identity.parents],
            "analysis_stage": self._identity.stage,
            "data_groups": list(self._context.data_groups),
            "cdi_stream": {
                "version": p.version,
                "network": {"name": p.network_name, "sha256": p.network_sha256},
                "geometry": p.beamline,
                "config_sha256": p.config_sha256,
                "fourier_sign": 1,
            },
        }
        context = self._context
        told: dict[str, Any] = {"scan_id": context.scan_id, "sample": context.sample}
        told |= {"raw_plan_name": context.plan_name, "raw_motors": list(context.motors) or None}
        metadata |= {key: value for key, value in told.items() if value is not None}
        for key, value in to_plain(context.metadata).items():
            if _is_allowed(metadata | {key: value}):
                metadata[key] = value
            else:
                logger.warning("run %s: its %r is left out: no start document allows it", context.uid[:8], key)
        return metadata


def _is_allowed(metadata: Mapping[str, Any]) -> bool:
    """Whether a start document may hold these values, and every serializer can write them."""
    try:
        schema_validators[DocumentNames.start].validate({"uid": "uid", "time": 0.0, **metadata})
        json.dumps(metadata).encode()
        return "\\ud" not in json.dumps(metadata) and "\\u0000" not in json.dumps(metadata)
    except (ValidationError, TypeError, ValueError, OverflowError, RecursionError):
        return False


def _result_data(result: Result) -> dict[str, Any]:
    return {
        **_account_data(result.account, result.curve_index),
        **result_numbers(result.crystal, result.verdict, result.metrics),
        **result.notes,
        "series": result.series,
    }


def _account_data(account: FrameAccount, curve_index: int) -> dict[str, Any]:
    values = (curve_index, account.expected, account.received, len(account.missing), account.duplicate)
    return dict(zip(_COUNTS, (*values, account.late, account.bad), strict=True))


def _data_key(key: str, value: Any) -> dict[str, Any]:
    source = f"{SOURCE}{key}"
    if isinstance(value, str):
        return {"source": source, "dtype": "string", "shape": []}
    if isinstance(value, bool):
        return {"source": source, "dtype": "boolean", "shape": [], "dtype_numpy": "|b1"}
    if isinstance(value, int):
        return {"source": source, "dtype": "integer", "shape": [], "dtype_numpy": "<i8"}
    return {
        "source": source,
        "dtype": "number",
        "shape": [],
        "dtype_numpy": "<f8",
        "units": UNITS[key],
    }


def _array_key(dtype: str, shape: Shape) -> dict[str, Any]:
    return {
        "source": f"{SOURCE}hdf5",
        "dtype": "array",
        "shape": list(shape),
        "dtype_numpy": dtype,
        "external": "STREAM:",
        "dims": ["z", "y", "x"],
    }
