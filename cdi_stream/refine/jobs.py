"""A refinement as a job: what of a reconstruction it has to know, and the documents that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cdi_stream.documents.plain import to_plain
from cdi_stream.documents.publish import Identity, Provenance, RunPublisher, derived_uid
from cdi_stream.geometry.affine import Shape
from cdi_stream.inversion.chain import crystal_in_lab, numbers_of
from cdi_stream.inversion.methods import MethodSettings, refine
from cdi_stream.inversion.verdict import combined
from cdi_stream.messages import FrameAccount, PhasedVolume, Result, RunContext
from cdi_stream.refine.queue import Document

STREAM = "refinement"


class JobSpec(BaseModel):
    """What a job carries beside its input file; texts and numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_uid: str
    reconstruction_uid: str
    curve_index: int
    series: str
    scan_id: int | None
    sample: str | None = None
    plan_name: str | None = None
    motors: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    data_groups: tuple[str, ...]
    account: dict[str, Any]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: dict[str, str]
    settings: MethodSettings
    lab_shape: Shape
    start_chi2: float
    start_r_p: float

    def key(self, method: str) -> str:
        """Uid of the run that the job publishes: the same for the same curve, method and settings."""
        made_by = (self.provenance["config_sha256"], method, self.settings.model_dump_json())
        return derived_uid(self.raw_uid, STREAM, f"curve {self.curve_index}", *made_by)

    @property
    def input(self) -> str:
        """Name of the file with the volume and the crystal to start from; the methods share it."""
        return f"{self.reconstruction_uid}_{self.curve_index:04d}.h5"


def spec_of(
    result: Result,
    run: RunContext,
    reconstruction_uid: str,
    provenance: Provenance,
    settings: MethodSettings,
    lab_shape: Shape,
) -> JobSpec:
    """Describe what to refine of a reconstruction that has a crystal."""
    assert result.phased is not None
    scalars = result.phased.crystal.scalars
    return JobSpec(
        raw_uid=run.uid,
        reconstruction_uid=reconstruction_uid,
        curve_index=result.curve_index,
        series=result.series,
        scan_id=run.scan_id,
        sample=run.sample,
        plan_name=run.plan_name,
        motors=run.motors,
        metadata=to_plain(run.metadata),
        data_groups=run.data_groups,
        account=asdict(result.account),
        doubts=result.phased.doubts,
        notes=result.phased.notes,
        provenance=asdict(provenance),
        settings=settings,
        lab_shape=lab_shape,
        start_chi2=scalars["chi2"],
        start_r_p=scalars["r_p"],
    )


def refined(
    spec: JobSpec,
    method: str,
    phased: PhasedVolume,
    wait_turn: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Do the work of a job; the result is in lab coordinates."""
    begin_s = clock()
    refined_crystal, schedule = refine(method, replace(phased, doubts=()), spec.settings, wait_turn)
    crystal = crystal_in_lab(refined_crystal, spec.lab_shape)
    scalars = numbers_of(crystal, phased.volume)
    scalars |= {"start_chi2": spec.start_chi2, "start_r_p": spec.start_r_p, "seconds": clock() - begin_s}
    return Result(
        stream=STREAM,
        curve_index=spec.curve_index,
        series=spec.series,
        crystal=crystal,
        verdict=combined(crystal.verdict, spec.doubts, spec.notes),
        account=FrameAccount(**(spec.account | {"missing": tuple(spec.account["missing"])})),
        scalars=scalars,
        complete_s=begin_s,
        notes={"method": method, "recipe": schedule},
    )


def documents_of(spec: JobSpec, method: str, result: Result, directory: Path) -> list[Document]:
    """Write the result's file, and compose the whole refinement run from start to stop."""
    found: list[Document] = []
    identity = Identity(uid=spec.key(method), stage=STREAM, parents=(spec.reconstruction_uid,))
    publisher = RunPublisher(
        RunContext(
            uid=spec.raw_uid,
            scan_id=spec.scan_id,
            sample=spec.sample,
            plan_name=spec.plan_name,
            motors=spec.motors,
            metadata=spec.metadata,
            data_groups=spec.data_groups,
        ),
        Provenance(**spec.provenance),
        {STREAM: spec.lab_shape},
        directory,
        lambda name, doc: found.append((name, to_plain(doc))),
        identity,
    )
    publisher.result(result)
    publisher.close()
    return found
