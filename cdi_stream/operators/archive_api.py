"""HTTP interface of the past scans: their results, pictures, and trends over them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Query, Response

from cdi_stream.errors import CdiStreamError
from cdi_stream.files.result_file import read_frame_sums
from cdi_stream.operators.answers import (
    Problem,
    ReadingsAnswer,
    ResultAnswer,
    RockingAnswer,
    ScanAnswer,
    ScanDetail,
    ScansAnswer,
    TrendAnswer,
    TrendPointAnswer,
)
from cdi_stream.operators.archive import ArchivedResult, ArchivedScan
from cdi_stream.operators.binary import MEDIA_TYPE, to_bytes
from cdi_stream.operators.parts import Parts
from cdi_stream.operators.trends import changing_readings, trend
from cdi_stream.operators.views import CrystalViews, View, ViewCache

MAX_SCANS = 500
"""Largest number of scans, or of curves, in one answer."""

Responses = dict[int | str, dict[str, Any]]

REFUSALS: Responses = {status: {"model": Problem} for status in (401, 403, 404)}
"""Answers to requests that are refused."""

_ARRAYS: Responses = {200: {"content": {MEDIA_TYPE: {}}}, **REFUSALS}

T = TypeVar("T")
Stage = Literal["preview", "inference", "reconstruction", "refinement"]
OnlyVerdict = Annotated[str | None, Query(description="Only scans with this verdict.")]
Words = Annotated[str, Query(max_length=200, description="Words in uid, number, sample, plan or motors.")]


def add_archive(routes: APIRouter, parts: Parts) -> None:
    """Add the routes of the past scans."""
    _add_scans(routes, parts)
    _add_trends(routes, parts)
    _add_pictures(routes, parts)


def _add_scans(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/scans", tags=["scans"])
    async def scans(
        verdict: OnlyVerdict = None,
        q: Words = "",
        limit: Annotated[int, Query(ge=1, le=MAX_SCANS)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> ScansAnswer:
        """Return past scans, the newest first; none without a results folder."""
        if parts.archive is None:
            return ScansAnswer(total=0, scans=[])
        found = await asyncio.to_thread(parts.archive.scans, verdict=verdict, text=q)
        return ScansAnswer(total=len(found), scans=[ScanAnswer.of(scan) for scan in found[offset : offset + limit]])

    @routes.get("/scans/{uid}", tags=["scans"], responses=REFUSALS)
    async def scan(uid: str) -> ScanDetail:
        """Return one past scan with all its results."""
        found = await scan_of(parts, uid)
        results = [ResultAnswer.of(result) for result in found.results]
        return ScanDetail(**ScanAnswer.of(found).model_dump(), results=results)


def _add_trends(routes: APIRouter, parts: Parts) -> None:
    async def scans(verdict: str | None, q: str) -> list[ArchivedScan]:
        """Return past scans; none without a results folder."""
        return [] if parts.archive is None else await asyncio.to_thread(parts.archive.scans, verdict=verdict, text=q)

    @routes.get("/readings", tags=["scans"])
    async def readings(verdict: OnlyVerdict = None, q: Words = "") -> ReadingsAnswer:
        """Return the readings of the runs that differ between scans, such as a temperature."""
        return ReadingsAnswer(units=changing_readings(await scans(verdict, q)))

    @routes.get("/trend", tags=["scans"])
    async def trend_of(
        name: Annotated[str, Query(max_length=200, description="Name of a number of a result, or of a reading.")],
        kind: Literal["result", "reading"] = "result",
        verdict: OnlyVerdict = None,
        q: Words = "",
    ) -> TrendAnswer:
        """Return a number of the results, or a reading of the runs, over the newest curves."""
        points = trend(await scans(verdict, q), name, is_reading=kind == "reading")[-MAX_SCANS:]
        return TrendAnswer(points=[TrendPointAnswer.model_validate(point) for point in points])


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

    @routes.get("/scans/{uid}/rocking", tags=["scans"], responses=REFUSALS)
    async def rocking(uid: str, curve: Annotated[int, Query(ge=0, le=1_000_000)] = 0) -> RockingAnswer:
        """Return the counts of each frame of a curve."""
        result = await _result(parts, uid, "reconstruction", curve)
        sums = await asyncio.to_thread(read_frame_sums, result.path)
        return RockingAnswer(frame_sums=[] if sums is None else sums.tolist())

    @routes.get(
        "/scans/{uid}/thumbnail.png",
        tags=["pictures"],
        responses={200: {"content": {"image/png": {}}}, **REFUSALS},
        response_class=Response,
    )
    async def thumbnail(uid: str) -> Response:
        """Return a small picture of the crystal of a scan."""
        return Response(await view(uid, None, None, lambda of: of.thumbnail()), media_type="image/png")


async def scan_of(parts: Parts, uid: str) -> ArchivedScan:
    """Return a scan of the archive; status 404 if there is none."""
    found = None if parts.archive is None else await asyncio.to_thread(parts.archive.scan, uid)
    if found is None:
        raise HTTPException(404, f"no results of the run {uid[:60]!r} in the results folder")
    return found


async def _result(parts: Parts, uid: str, stage: str | None, curve: int | None) -> ArchivedResult:
    """Return a result of a scan; status 404 if there is none."""
    archive = parts.archive
    result = None if archive is None else await asyncio.to_thread(archive.result, uid, stage, curve)
    if result is None:
        raise HTTPException(404, f"no result of the run {uid[:60]!r}, stage {stage}, curve {curve}")
    return result


def _arrays(view: View) -> Response:
    """Return the answer with a header and arrays."""
    return Response(to_bytes(*view), media_type=MEDIA_TYPE)
