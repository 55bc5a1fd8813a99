"""Exposition: the numbers of the feed for Prometheus, at ``/metrics`` of the dashboard.

The counters are those of the service and start at 0 with each start of the service, as Prometheus expects.  While no
message comes from the service, only the numbers of the dashboard itself are given: an old number would look like a
present one.  The names follow the conventions of Prometheus (https://prometheus.io/docs/practices/naming/).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cdi_stream.operators.hub import Hub

MAX_SERIES = 100
"""Largest number of labels of a metric; the feed of a faulty service must not fill the memory of Prometheus."""

FATES = {"detector_messages": ("messages", "malformed", "stale"), "previews": ("previews", "previews_dropped")}
"""Counters of the feed that are the fates of one thing, by metric; `_fate` gives the label of each."""

DOCUMENT_FATES = ("documents", "documents_unusable")
"""Counters of the feed about documents of the RunEngine."""

SIZES = {
    "disk_free_bytes": ("results_disk_free_bytes", "Free space of the disk with the results folder"),
    "disk_size_bytes": ("results_disk_size_bytes", "Size of the disk with the results folder"),
    "spool_bytes": ("spool_size_bytes", "Size of the file with the documents that wait for a sink"),
    "memory_bytes": ("service_resident_memory_bytes", "Memory that the service holds"),
    "gpu_used_bytes": ("gpu_memory_used_bytes", "Memory of the GPU in use, by all programs"),
    "gpu_size_bytes": ("gpu_memory_size_bytes", "Memory of the GPU"),
}
"""Names and texts of the metrics of the feed's ``resources``."""


def add_metrics(app: FastAPI, hub: Hub) -> None:
    """Add ``/metrics``, the numbers of the feed in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(FeedCollector(hub))
    ProcessCollector(registry=registry)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Return the numbers."""
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class FeedCollector(Collector):
    """Gives the numbers of the hub's newest messages each time they are asked for."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        hub = self._hub
        yield _gauge("service_up", "Whether the feed of the service is received", float(not hub.trouble()))
        yield _gauge("dashboard_clients", "Browsers that show the page", hub.n_clients)
        yield _counter("feed_malformed", "Messages of the feed that could not be used", hub.n_malformed)
        if (age_s := hub.feed_age_s()) is not None:
            yield _gauge("feed_age_seconds", "Time since the last message of the service", age_s)
        if not hub.trouble():
            yield from _state_metrics(hub.newest("state"))
            yield from _progress_metrics(hub.newest("progress"))


def _state_metrics(state: Mapping[str, object]) -> Iterator[Metric]:
    """Yield the metrics of a state message; none before the first."""
    if not state:
        return
    counters, documents = _table(state.get("counters")), state.get("documents")
    yield from _numbers(state)
    yield from _sizes(state)
    yield _counters("frames", "Frames of finished curves", "fate", _table(state.get("frames")))
    for name, keys in FATES.items():
        yield _counters(name, f"Fates of {name.replace('_', ' ')}", "fate", _fates(counters, keys))
    yield _counters("documents", "Documents of the RunEngine", "fate", _fates(counters, DOCUMENT_FATES))
    if isinstance(documents, dict):
        delivered = _table(documents.get("delivered"))
        yield _counters("documents_delivered", "Documents of the service that a sink has", "sink", delivered)
        yield _gauges("documents_waiting", "Documents that wait for a sink", "sink", _table(documents.get("waiting")))
    yield _gauges("jobs", "Refinement jobs", "state", _table(state.get("queue")))
    yield _gauges("alarm_active", "Active alarms of the service, each 1", "alarm", _alarms(state.get("alarms")))
    yield _results(state.get("results"))
    yield _latencies(state)


def _numbers(state: Mapping[str, object]) -> Iterator[Metric]:
    """Yield the metrics that have one value each."""
    for key, name, text in (
        ("waiting", "curves_waiting", "Curves between their last frame and their last document"),
        ("waiting_bytes", "curves_waiting_bytes", "Memory of these curves"),
        ("lag_s", "newest_frame_age_seconds", "Time since the newest frame of the detector"),
        ("start_s", "service_start_time_seconds", "Start of the service, since the epoch"),
    ):
        if (value := _number(state.get(key))) is not None:
            yield _gauge(name, text, value)
    if (n_curves := _number(state.get("curves"))) is not None:
        yield _counter("curves", "Curves whose measurement is over", n_curves)


def _sizes(state: Mapping[str, object]) -> Iterator[Metric]:
    """Yield the sizes of disk and memory that the service tells."""
    for key, value in _table(state.get("resources")).items():
        if key in SIZES:
            yield _gauge(*SIZES[key], value)


def _progress_metrics(progress: Mapping[str, object]) -> Iterator[Metric]:
    """Yield the frames of the newest curve."""
    fates = ("expected", "received", "missing", "awaited", "duplicate", "late", "bad")
    frames = {fate: value for fate in fates if (value := _number(progress.get(fate))) is not None}
    if frames:
        yield _gauges("curve_frames", "Frames of the newest curve", "fate", frames)


def _results(results: object) -> Metric:
    """Return the number of results by stage and verdict."""
    family = CounterMetricFamily("cdi_stream_results", "Results by stage and verdict", labels=("stage", "verdict"))
    if isinstance(results, dict):
        pairs = [(stage, grade, n) for stage, grades in results.items() for grade, n in _table(grades).items()]
        for stage, grade, n in pairs[:MAX_SERIES]:
            family.add_metric((str(stage), grade), n)
    return family


def _latencies(state: Mapping[str, object]) -> Metric:
    """Return the histograms of the latencies; a histogram whose numbers do not fit its bins is left out."""
    family = HistogramMetricFamily(
        "cdi_stream_latency_seconds",
        "Time of each step of a curve; inference and reconstruction count from the last frame to the document",
        labels=("step",),
    )
    bounds, latencies = state.get("latency_bounds_s"), state.get("latencies")
    if not isinstance(bounds, list) or not isinstance(latencies, dict):
        return family
    edges = [*map(str, bounds), "+Inf"]
    for step, entry in list(latencies.items())[:MAX_SERIES]:
        numbers = entry.get("numbers") if isinstance(entry, dict) else None
        total_s = _number(entry.get("sum_s")) if isinstance(entry, dict) else None
        if isinstance(numbers, list) and len(numbers) == len(edges) and all(isinstance(n, int) for n in numbers):
            family.add_metric((str(step),), list(zip(edges, accumulate(numbers), strict=True)), total_s)
    return family


def _fates(counters: Mapping[str, float], keys: tuple[str, ...]) -> dict[str, float]:
    """Return the counters of one thing by fate: the first counts all of it, the others the parts that were dropped."""
    first, *others = keys
    labels = {first: "received" if first != "previews" else "published"}
    labels |= {key: key.removeprefix(f"{first}_") for key in others}
    return {label: counters[key] for key, label in labels.items() if key in counters}


def _alarms(alarms: object) -> dict[str, float]:
    """Return 1 for each active alarm, by its key."""
    entries = alarms if isinstance(alarms, list) else []
    return {str(entry.get("key"))[:80]: 1.0 for entry in entries[:MAX_SERIES] if isinstance(entry, dict)}


def _number(value: object) -> float | None:
    """Return a finite number; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _table(value: object) -> dict[str, float]:
    """Return the numbers of a table by name; what is no number is left out."""
    entries = list(value.items())[:MAX_SERIES] if isinstance(value, dict) else []
    return {str(key)[:80]: number for key, entry in entries if (number := _number(entry)) is not None}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cdi_stream_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"cdi_stream_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"cdi_stream_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"cdi_stream_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
