"""HTTP interface of the operators' page: newest state, queue, and the past scans with their pictures."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request

from cdi_stream.operators.answers import (
    ChangeAnswer,
    JobAction,
    JobAnswer,
    Problem,
    QueueAnswer,
    ReconstructAnswer,
    ReconstructRequest,
    SessionAnswer,
    StateAnswer,
)
from cdi_stream.operators.archive_api import REFUSALS, add_archive, scan_of
from cdi_stream.operators.parts import Parts
from cdi_stream.operators.session import COOKIE


def router(parts: Parts) -> APIRouter:
    """Return the routes below ``/api/v1``."""
    routes = APIRouter(prefix="/api/v1", responses={key: REFUSALS[key] for key in (401, 403)})
    _add_state(routes, parts)
    add_archive(routes, parts)
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


def _add_queue(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/queue", tags=["queue"])
    async def queue(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> QueueAnswer:
        """Return the refinements; none if the queue is not at hand."""
        found = [] if parts.jobs is None else await asyncio.to_thread(parts.jobs.jobs, limit)
        return QueueAnswer(jobs=[JobAnswer.model_validate(job) for job in found])

    @routes.post("/queue/{job_id}/{action}", tags=["queue"], responses=REFUSALS)
    async def change(job_id: int, action: JobAction) -> ChangeAnswer:
        """Take a job first, cancel it, or try it again."""
        if parts.jobs is None or not 0 < job_id < 1 << 63:
            raise HTTPException(404, f"no job {job_id}")
        is_changed = await asyncio.to_thread(parts.jobs.change, job_id, action)
        if is_changed is None:
            raise HTTPException(404, f"no job {job_id}")
        return ChangeAnswer(is_changed=is_changed)


def _add_reconstruction(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/reconstruction", tags=["scans"], responses=REFUSALS)
    async def state() -> ReconstructAnswer:
        """Return the reconstruction of a past scan that runs now, or ran last."""
        if parts.reconstructor is None:
            raise HTTPException(404, "this dashboard cannot reconstruct: start it with --config")
        return ReconstructAnswer.model_validate(parts.reconstructor.state())

    @routes.post(
        "/scans/{uid}/reconstruct",
        tags=["scans"],
        responses={**REFUSALS, 400: {"model": Problem}, 409: {"model": Problem}},
        status_code=202,
    )
    async def reconstruct(uid: str, request: ReconstructRequest) -> ReconstructAnswer:
        """Reconstruct a past scan again with other settings."""
        await scan_of(parts, uid)
        if parts.reconstructor is None:
            raise HTTPException(404, "this dashboard cannot reconstruct: start it with --config")
        if reason := parts.reconstructor.start(uid, request.settings):
            raise HTTPException(409, reason)
        return ReconstructAnswer.model_validate(parts.reconstructor.state())
