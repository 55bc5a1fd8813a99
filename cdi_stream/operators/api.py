"""HTTP interface of the operators' page: newest state, past scans with their pictures, and the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request, Response

from cdi_stream.errors import CdiStreamError
from cdi_stream.files.result_file import read_frame_sums
from cdi_stream.operators.answers import (
    ChangeAnswer,
    JobAction,
    JobAnswer,
    Problem,
    QueueAnswer,
    ReconstructAnswer,
    ReconstructRequest,
    ResultAnswer,
    RockingAnswer,
    ScanAnswer,
    ScanDetail,
    ScansAnswer,
    SessionAnswer,
    StateAnswer,
)
from cdi_stream.operators.archive import Archive, ArchivedResult, ArchivedScan
from cdi_stream.operators.binary import MEDIA_TYPE, to_bytes
from cdi_stream.operators.hub import Hub
from cdi_stream.operators.session import COOKIE, Sessions
from cdi_stream.operators.views import CrystalViews, View, ViewCache

MAX_SCANS = 500
"""Largest number of scans in one answer."""

Responses = dict[int | str, dict[str, Any]]

_REFUSALS: Responses = {status: {"model": Problem} for status in (401, 403, 404)}
_ARRAYS: Responses = {200: {"content": {MEDIA_TYPE: {}}}, **_REFUSALS}

T = TypeVar("T")
Stage = Literal["preview", "inference", "reconstruction", "refinement"]


class Jobs(Protocol):
    """Refinement queue, as the page sees it."""

    def jobs(self, limit: int) -> Sequence[Mapping[str, object]]:
        """Return jobs with the fields of `JobAnswer`."""

    def change(self, job_id: int, action: JobAction) -> bool | None:
        """Change a job; return whether it was changed, None if there is no such job."""


class Reconstructor(Protocol):
    """Program that reconstructs a past scan again, one at a time."""

    def start(self, uid: str, settings: Mapping[str, str]) -> str:
        """Begin; return the reason why that is not possible, empty if it is."""

    def state(self) -> Mapping[str, object]:
        """Return the fields of `ReconstructAnswer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Parts of a dashboard that the interface shows; None for what this dashboard has not."""

    hub: Hub
    sessions: Sessions | None = None
    archive: Archive | None = None
    jobs: Jobs | None = None
    reconstructor: Reconstructor | None = None


def router(parts: Parts) -> APIRouter:
    """Return the routes below ``/api/v1``."""
    routes = APIRouter(prefix="/api/v1", responses={key: _REFUSALS[key] for key in (401, 403)})
    _add_state(routes, parts)
    _add_scans(routes, parts)
    _add_pictures(routes, parts)
    _add_queue(routes, parts)
    _add_reconstruction(routes, parts)
    return routes


def _add_state(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/session", tags=["state"])
    async def session(request: Request) -> SessionAnswer:
        """Return what this browser may do."""
        cookie = request.cookies.get(COOKIE)
        sessions = parts.sessions
        return SessionAnswer(
            can_write=sessions is not None,
            csrf=sessions.csrf(cookie) if sessions is not None and cookie and sessions.is_open(cookie) else None,
            has_archive=parts.archive is not None,
            has_queue=parts.jobs is not None,
            can_reconstruct=sessions is not None and parts.reconstructor is not None,
        )

    @routes.get("/state", tags=["state"])
    async def state() -> StateAnswer:
        """Return the newest messages of the feed."""
        headers = parts.hub.newest_headers()
        return StateAnswer(feed_age_s=parts.hub.feed_age_s(), seq=parts.hub.seq, messages=headers)


def _add_scans(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/scans", tags=["scans"])
    async def scans(
        verdict: Annotated[str | None, Query(description="Only scans with this verdict.")] = None,
        q: Annotated[str, Query(max_length=200, description="Words in uid, number, sample, plan or motors.")] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_SCANS)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> ScansAnswer:
        """Return past scans, the newest first; none without a results folder."""
        if parts.archive is None:
            return ScansAnswer(total=0, scans=[])
        found = await asyncio.to_thread(parts.archive.scans, verdict=verdict, text=q)
        return ScansAnswer(total=len(found), scans=[ScanAnswer.of(scan) for scan in found[offset : offset + limit]])

    @routes.get("/scans/{uid}", tags=["scans"], responses=_REFUSALS)
    async def scan(uid: str) -> ScanDetail:
        """Return one past scan with all its results."""
        found = await _scan(parts, uid)
        results = [ResultAnswer.of(result) for result in found.results]
        return ScanDetail(**ScanAnswer.of(found).model_dump(), results=results)


def _add_pictures(routes: APIRouter, parts: Parts) -> None:
    views = ViewCache()

    async def view(uid: str, stage: str | None, curve: int | None, compute: Callable[[CrystalViews], T]) -> T:
        """Return what ``compute`` makes of a crystal, in a thread."""
        result = await _result(parts, uid, stage, curve)
        try:
            return await asyncio.to_thread(lambda: compute(views.of(result.path)))
        except (CdiStreamError, ValueError, OSError) as error:
            raise HTTPException(404, str(error)) from error

    @routes.get("/scans/{uid}/slice", tags=["pictures"], responses=_ARRAYS, response_class=Response)
    async def slice_of(
        uid: str,
        axis: Literal["z", "y", "x"] = "z",
        quantity: Literal["amplitude", "phase", "displacement", "strain"] = "amplitude",
        index: Annotated[int | None, Query(ge=0, le=10_000)] = None,
        stage: Stage | None = None,
        curve: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
    ) -> Response:
        """Return the slice of a crystal across an axis, by default through its origin."""
        return _arrays(await view(uid, stage, curve, lambda of: of.slice(quantity, axis, index)))

    @routes.get("/scans/{uid}/mesh", tags=["pictures"], responses=_ARRAYS, response_class=Response)
    async def mesh(
        uid: str, stage: Stage | None = None, curve: Annotated[int | None, Query(ge=0, le=1_000_000)] = None
    ) -> Response:
        """Return the surface of a crystal as a mesh, with phase, displacement and strain at each vertex."""
        return _arrays(await view(uid, stage, curve, lambda of: of.mesh()))

    @routes.get("/scans/{uid}/rocking", tags=["scans"], responses=_REFUSALS)
    async def rocking(uid: str, curve: Annotated[int, Query(ge=0, le=1_000_000)] = 0) -> RockingAnswer:
        """Return the counts of each frame of a curve."""
        result = await _result(parts, uid, "reconstruction", curve)
        sums = await asyncio.to_thread(read_frame_sums, result.path)
        return RockingAnswer(frame_sums=[] if sums is None else sums.tolist())

    @routes.get(
        "/scans/{uid}/thumbnail.png",
        tags=["pictures"],
        responses={200: {"content": {"image/png": {}}}, **_REFUSALS},
        response_class=Response,
    )
    async def thumbnail(uid: str) -> Response:
        """Return a small picture of the crystal of a scan."""
        return Response(await view(uid, None, None, lambda of: of.thumbnail()), media_type="image/png")


def _add_queue(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/queue", tags=["queue"])
    async def queue(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> QueueAnswer:
        """Return the refinements; none if the queue is not at hand."""
        found = [] if parts.jobs is None else await asyncio.to_thread(parts.jobs.jobs, limit)
        return QueueAnswer(jobs=[JobAnswer.model_validate(job) for job in found])

    @routes.post("/queue/{job_id}/{action}", tags=["queue"], responses=_REFUSALS)
    async def change(job_id: int, action: JobAction) -> ChangeAnswer:
        """Take a job first, cancel it, or try it again."""
        if parts.jobs is None or not 0 < job_id < 1 << 63:
            raise HTTPException(404, f"no job {job_id}")
        is_changed = await asyncio.to_thread(parts.jobs.change, job_id, action)
        if is_changed is None:
            raise HTTPException(404, f"no job {job_id}")
        return ChangeAnswer(is_changed=is_changed)


def _add_reconstruction(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/reconstruction", tags=["scans"], responses=_REFUSALS)
    async def state() -> ReconstructAnswer:
        """Return the reconstruction of a past scan that runs now, or ran last."""
        if parts.reconstructor is None:
            raise HTTPException(404, "this dashboard cannot reconstruct: start it with --config")
        return ReconstructAnswer.model_validate(parts.reconstructor.state())

    @routes.post(
        "/scans/{uid}/reconstruct",
        tags=["scans"],
        responses={**_REFUSALS, 400: {"model": Problem}, 409: {"model": Problem}},
        status_code=202,
    )
    async def reconstruct(uid: str, request: ReconstructRequest) -> ReconstructAnswer:
        """Reconstruct a past scan again with other settings."""
        await _scan(parts, uid)
        if parts.reconstructor is None:
            raise HTTPException(404, "this dashboard cannot reconstruct: start it with --config")
        if reason := parts.reconstructor.start(uid, request.settings):
            raise HTTPException(409, reason)
        return ReconstructAnswer.model_validate(parts.reconstructor.state())


async def _scan(parts: Parts, uid: str) -> ArchivedScan:
    """Return a scan of the archive; status 404 if there is none."""
    found = None if parts.archive is None else await asyncio.to_thread(parts.archive.scan, uid)
    if found is None:
        raise HTTPException(404, f"no results of the run {uid[:60]!r} in the results folder")
    return found


async def _result(parts: Parts, uid: str, stage: str | None, curve: int | None) -> ArchivedResult:
    """Return a result of a scan; status 404 if there is none."""
    result = (await _scan(parts, uid)).find(stage, curve)
    if result is None:
        raise HTTPException(404, f"no result of the stage {stage} and the curve {curve} of this scan")
    return result


def _arrays(view: View) -> Response:
    """Return the answer with a header and arrays."""
    return Response(to_bytes(*view), media_type=MEDIA_TYPE)
