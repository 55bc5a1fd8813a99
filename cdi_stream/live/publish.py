"""Publish: results as Bluesky documents, arrays as closed HDF5 files beside them.

One run of ours for each raw run.  Uids are derived from the raw run, the stage and the configuration, so a
repeat after a crash is recognised.  Events are never rewritten; a volume never travels inside one.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from event_model import ComposeRunBundle, compose_run
from numpy.typing import NDArray

from cdi_stream.affine import Shape
from cdi_stream.messages import Crystal, CurveProgress, FrameAccount, PhasedVolume, RunContext, Verdict

NAMESPACE = uuid.UUID("6f1f9a0e-6f0e-5b53-9a3e-0f5d9a1c2b77")
"""Root of all uids derived here."""

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
_NUMBERS = {
    "chi2": "",
    "r_p": "",
    "chi2_floor": "",
    "free_llk": "",
    "free_llk_floor": "",
    "starts": "",
    "agreement": "",
    "unevenness": "",
    "noise_error": "",
    "resolution_m": "m",
    "support_fraction": "",
    "support_over_box": "",
    "cycles": "",
    "oversampling_frame": "",
    "oversampling_row": "",
    "oversampling_col": "",
    "voxel_size_m": "m",
    "size_lab_x_nm": "nm",
    "size_lab_y_nm": "nm",
    "size_lab_z_nm": "nm",
    "support_volume_nm3": "nm^3",
    "d_spacing_m": "m",
    "strain_low": "",
    "strain_high": "",
    "bad_pixels": "",
    "alien_voxels": "",
    "latency_assemble_s": "s",
    "latency_prepare_s": "s",
    "latency_correct_s": "s",
    "latency_infer_s": "s",
    "latency_polish_s": "s",
    "latency_s": "s",
}

_REFINEMENT_NUMBERS = {"seconds": "s", "start_chi2": "", "start_r_p": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What every run of ours says of its making."""

    version: str
    config_sha256: str
    network_name: str
    network_sha256: str
    beamline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One event's worth: a crystal in lab coordinates (None: no picture), and how it came about.

    ``complete_s`` is the monotonic time of the last frame's message; ``notes`` are texts by name.  ``phased`` is what
    the result was on the measured voxels.
    """

    stream: str
    curve_index: int
    series: str
    crystal: Crystal | None
    verdict: Verdict
    account: FrameAccount
    scalars: Mapping[str, float]
    complete_s: float
    frame_sums: NDArray[np.int64] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    phased: PhasedVolume | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a run of ours is: its uid, its stage, and the runs that it came from."""

    uid: str
    stage: str = "reconstruction"
    parents: tuple[str, ...] = ()


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

    def preview(self, progress: CurveProgress) -> None:
        """Publish how far a curve has come."""
        data = _account_data(progress.account, progress.curve_index) | {"series": str(progress.series)}
        self._event("preview", data, {})

    def result(self, result: Result, clock: Callable[[], float] = time.monotonic) -> Path:
        """Write the arrays, then publish one event of ``result.stream``; returns the file."""
        seq_num = len(self._streams.get(result.stream + " events", ())) + 1
        path = self._directory / f"{self.uid}_{seq_num:04d}_{result.stream}.h5"
        arrays = _arrays(result.crystal, self._shapes[result.stream])
        data = _result_data(result) | {"file": str(path)}
        write_result(path, arrays, data, result.frame_sums)
        data["latency_s"] = clock() - result.complete_s
        self._event(result.stream, data, dict.fromkeys(arrays, path))
        return path

    def close(self, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """Publish the stop document; nothing happens if nothing was published."""
        if self._run is not None:
            self._emit("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))
            self._run = None

    def _event(self, stream: str, data: dict[str, Any], files: Mapping[str, Path]) -> None:
        descriptor = self._stream(stream, data)
        seq_num = len(self._streams[stream + " events"]) + 1
        self._streams[stream + " events"].append(seq_num)
        assert self._run is not None
        assert self._run.compose_stream_resource is not None
        for name, path in files.items():
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
                keys |= {f"{stream}_{name}": _array_key(dtype, self._shapes[stream]) for name, dtype in _ARRAYS.items()}
            bundle = self._run.compose_descriptor(
                name=stream, data_keys=keys, uid=derived_uid(self.uid, stream, "descriptor")
            )
            self._streams[stream], self._streams[stream + " events"] = bundle, []
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
        return metadata | ({} if self._context.scan_id is None else {"scan_id": self._context.scan_id})


_ARRAYS = {"crystal": "<c8", "support": "|u1"}


def write_result(
    path: Path, arrays: Mapping[str, np.ndarray], data: Mapping[str, Any], frame_sums: NDArray[np.int64] | None
) -> None:
    """Write one file, flush it to disk, and only then give it its name.

    ``/entry/data/crystal`` is ``(1, z, y, x)`` complex64 in lab coordinates, ``support`` likewise; numbers
    are attributes of ``/entry/cdi_stream``, where ``frame_sums`` holds the counts of each frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with h5py.File(part, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"], entry.attrs["default"] = "NXentry", "data"
        group = entry.create_group("data")
        group.attrs["NX_class"], group.attrs["signal"] = "NXdata", "crystal"
        for name, array in arrays.items():
            group.create_dataset(name, data=array[None], chunks=(1, *array.shape))
        numbers = entry.create_group("cdi_stream")
        for key, value in {**data, **json.loads(data["affine"])}.items():
            numbers.attrs[key] = value
        if frame_sums is not None:
            numbers["frame_sums"] = frame_sums
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    part.rename(path)


def _arrays(crystal: Crystal | None, shape: Shape) -> dict[str, np.ndarray]:
    """Arrays of a result; a failed one without a crystal has zeros, to keep one entry an event."""
    if crystal is None:
        return {"crystal": np.zeros(shape, np.complex64), "support": np.zeros(shape, np.uint8)}
    return {"crystal": crystal.density, "support": crystal.support.astype(np.uint8)}


def _result_data(result: Result) -> dict[str, Any]:
    known = _NUMBERS if result.stream != "refinement" else _NUMBERS | _REFINEMENT_NUMBERS
    numbers = dict.fromkeys(known, float("nan")) | dict(result.scalars)
    return {
        **_account_data(result.account, result.curve_index),
        **{key: float(numbers[key]) for key in known},
        **result.notes,
        "verdict": result.verdict.grade,
        "reasons": " | ".join(result.verdict.reasons),
        "series": result.series,
        "affine": json.dumps(_affine_data(result.crystal)),
    }


def _affine_data(crystal: Crystal | None) -> dict[str, Any]:
    """Map of the array as plain values: JSON text in events, since tables hold no matrices."""
    if crystal is None:
        return {}
    affine = crystal.affine
    return {
        "coordinates": affine.coordinates,
        "fourier_sign": affine.fourier_sign,
        "handedness": affine.handedness,
        "q0_lab_inv_m": affine.q0.tolist(),
        "bq_lab_inv_m": affine.bq.tolist(),
        "sample_to_lab": affine.sample_to_lab.tolist(),
    }


def _account_data(account: FrameAccount, curve_index: int) -> dict[str, Any]:
    values = (curve_index, account.expected, account.received, len(account.missing), account.duplicate)
    return dict(zip(_COUNTS, (*values, account.late, account.bad), strict=True))


def _data_key(key: str, value: Any) -> dict[str, Any]:
    source = f"cdi_stream:{key}"
    if isinstance(value, str):
        return {"source": source, "dtype": "string", "shape": []}
    if isinstance(value, int):
        return {"source": source, "dtype": "integer", "shape": [], "dtype_numpy": "<i8"}
    return {
        "source": source,
        "dtype": "number",
        "shape": [],
        "dtype_numpy": "<f8",
        "units": (_NUMBERS | _REFINEMENT_NUMBERS)[key],
    }


def _array_key(dtype: str, shape: Shape) -> dict[str, Any]:
    return {
        "source": "cdi_stream:hdf5",
        "dtype": "array",
        "shape": list(shape),
        "dtype_numpy": dtype,
        "external": "STREAM:",
        "dims": ["z", "y", "x"],
    }
