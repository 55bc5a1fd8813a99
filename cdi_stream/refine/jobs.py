"""Refinement job: its description, its work, and the documents of its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents.plain import to_plain
from cdi_stream.documents.publish import Identity, Provenance, RunPublisher, derived_uid, start_values
from cdi_stream.geometry.affine import Shape
from cdi_stream.inversion.chain import crystal_in_lab, metrics_in_lab
from cdi_stream.inversion.methods import MethodSettings, Watch, refine
from cdi_stream.inversion.verdict import combined
from cdi_stream.messages import FrameAccount, PhasedVolume, Result, RunContext
from cdi_stream.metrics import RefinementMetrics
from cdi_stream.refine.queue import NamedDocument

STREAM = "refinement"
"""Name of the stream, and of the stage, of a refinement."""


class JobSpec(BaseModel):
    """Description of a job, without its input file: texts and numbers about run, curve, settings and provenance."""

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
        """Return the uid of the run that the job publishes: the same for the same curve, method and settings."""
        made_by = (self.provenance["config_sha256"], method, self.settings.model_dump_json())
        return derived_uid(self.raw_uid, STREAM, f"curve {self.curve_index}", *made_by)

    @property
    def input(self) -> str:
        """Name of the input file, which all methods share."""
        return f"{self.reconstruction_uid}_{self.curve_index:04d}.h5"


def spec_of(
    result: Result,
    run: RunContext,
    reconstruction_uid: str,
    provenance: Provenance,
    settings: MethodSettings,
    lab_shape: Shape,
) -> JobSpec:
    """Return the description of the jobs that refine a reconstruction; ``result`` must have a crystal."""
    assert result.phased is not None
    metrics = result.phased.crystal.metrics
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
        start_chi2=metrics.chi2,
        start_r_p=metrics.r_p,
    )


def run_job(
    spec: JobSpec,
    method: str,
    phased: PhasedVolume,
    wait_turn: Callable[[], None] = lambda: None,
    watch: Watch | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Refine the crystal of a job with ``method``; return the result in lab coordinates.

    ``wait_turn`` is called before each step, so that no step is long; ``watch`` follows the refinement; ``clock`` is
    monotonic time [s].
    """
    begin_s = clock()
    refined_crystal, schedule = refine(method, replace(phased, doubts=()), spec.settings, wait_turn, watch)
    wait_turn()
    crystal = crystal_in_lab(refined_crystal, spec.lab_shape)
    wait_turn()
    metrics = RefinementMetrics(
        **asdict(metrics_in_lab(crystal, phased.volume)),
        start_chi2=spec.start_chi2,
        start_r_p=spec.start_r_p,
        seconds=clock() - begin_s,
    )
    return Result(
        stream=STREAM,
        curve_index=spec.curve_index,
        series=spec.series,
        crystal=crystal,
        verdict=combined(crystal.verdict, spec.doubts, spec.notes),
        account=FrameAccount(**(spec.account | {"missing": tuple(spec.account["missing"])})),
        metrics=metrics,
        complete_s=begin_s,
        notes={"method": method, "recipe": schedule},
    )


def documents_of(spec: JobSpec, method: str, result: Result, results: ResultFolder) -> list[NamedDocument]:
    """Write the file of a result; return the documents of its run, from start to stop document.

    ``results`` is the folder of the result files.

    Raises
    ------
    OSError
        If the disk takes no file: a refinement without arrays is of no use, and can be computed again.
    """
    documents: list[NamedDocument] = []
    identity = Identity(uid=spec.key(method), stage=STREAM, parents=(spec.reconstruction_uid,))
    run = RunContext(
        uid=spec.raw_uid,
        scan_id=spec.scan_id,
        sample=spec.sample,
        plan_name=spec.plan_name,
        motors=spec.motors,
        metadata=spec.metadata,
        data_groups=spec.data_groups,
    )
    publisher = RunPublisher(
        run,
        Provenance(**spec.provenance),
        {STREAM: spec.lab_shape},
        results.of(start_values(run)),
        lambda name, doc: documents.append((name, to_plain(doc))),
        identity,
    )
    if (problem := publisher.result(result).problem) is not None:
        raise OSError(problem)
    publisher.close()
    return documents
