"""The numbers for Prometheus: from the feed's messages to the text at ``/metrics``."""

from __future__ import annotations

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cdi_stream.live.tally import LATENCY_BOUNDS_S, Tally
from cdi_stream.messages import FrameAccount
from cdi_stream.operators.exposition import FeedCollector
from cdi_stream.operators.hub import Hub
from tests.system.browser import progress, state
from tests.unit.test_dashboard import parts, run

NUMBERS = {
    "counters": {"messages": 90, "malformed": 2, "stale": 1, "documents": 40, "documents_unusable": 3, "previews": 5},
    "curves": 2,
    "frames": {"received": 79, "missing": 1, "duplicate": 0, "late": 0, "bad": 0},
    "results": {"reconstruction": {"good": 1, "failed": 1}},
    "latency_bounds_s": [0.1, 1.0],
    "latencies": {"phase": {"numbers": [1, 2, 3], "sum_s": 12.5}},
    "documents": {"waiting": {"bus": 4, "tiled": 0}, "delivered": {"bus": 36, "tiled": 40}},
    "resources": {"disk_free_bytes": 5e9, "disk_size_bytes": 1e10, "memory_bytes": 1e9, "surprise": 1},
    "start_s": 1.7e9,
    "alarms": [{"key": "disk", "text": 'the "disk" is full', "since_s": 1.0}],
}
"""What a service tells for its monitoring."""


def samples(text):
    """Values by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return {name.removeprefix("cdi_stream_"): value for name, value in found.items()}


def exposed(hub):
    registry = CollectorRegistry()
    registry.register(FeedCollector(hub))
    return samples(generate_latest(registry).decode())


def test_every_number_of_the_feed_is_given_with_its_labels():
    hub = Hub()
    hub.take(parts(state(**NUMBERS)))
    hub.take(parts(progress(30, (4, 5))))
    given = exposed(hub)
    assert (
        given.items()
        >= {
            "service_up": 1,
            "detector_messages_total{fate=received}": 90,
            "detector_messages_total{fate=malformed}": 2,
            "documents_total{fate=received}": 40,
            "documents_total{fate=unusable}": 3,
            "previews_total{fate=published}": 5,
            "frames_total{fate=missing}": 1,
            "frames_total{fate=received}": 79,
            "curves_total": 2,
            "results_total{stage=reconstruction,verdict=failed}": 1,
            "latency_seconds_bucket{le=0.1,step=phase}": 1,
            "latency_seconds_bucket{le=1.0,step=phase}": 3,
            "latency_seconds_bucket{le=+Inf,step=phase}": 6,
            "latency_seconds_count{step=phase}": 6,
            "latency_seconds_sum{step=phase}": 12.5,
            "documents_waiting{sink=bus}": 4,
            "documents_delivered_total{sink=tiled}": 40,
            "jobs{state=ready}": 4,
            "alarm_active{alarm=disk}": 1,
            "results_disk_free_bytes": 5e9,
            "service_resident_memory_bytes": 1e9,
            "service_start_time_seconds": 1.7e9,
            "newest_frame_age_seconds": 0.42,
            "curve_frames{fate=received}": 28,
            "curve_frames{fate=missing}": 2,
            "dashboard_clients": 0,
            "feed_malformed_total": 0,
        }.items()
    )
    assert not [name for name in given if "surprise" in name]


def test_old_numbers_are_not_given_while_the_service_is_silent():
    now = [100.0]
    hub = Hub(lambda: now[0])
    assert exposed(hub)["service_up"] == 0
    hub.take(parts(state(**NUMBERS)))
    now[0] += 6.0
    given = exposed(hub)
    assert (given["service_up"], given["feed_age_seconds"]) == (0, 6.0)
    assert not [name for name in given if name.startswith(("frames", "jobs", "results", "alarm"))]


def test_counters_begin_again_with_the_service():
    hub = Hub()
    for service, n in (("first", 79), ("second", 3)):
        header, images = state(**NUMBERS, service=service)
        hub.take(parts((header | {"frames": {"received": n}}, images)))
        assert exposed(hub)["frames_total{fate=received}"] == n
    hub.take(parts(({**progress(3)[0], "service": "third"}, {})))
    assert "frames_total{fate=received}" not in exposed(hub), "the third service has told no numbers yet"


def test_a_feed_of_nonsense_gives_no_nonsense():
    hub = Hub()
    for nonsense in ([{"a": "b"}, None, "x"], {"a": {"b": ["c"]}, "d": True, "e": "1"}):
        hub.take(parts(state(**dict.fromkeys(NUMBERS, nonsense))))
        assert exposed(hub)["service_up"] == 1
    hub.take(parts(state(latency_bounds_s=[1.0], latencies={"phase": {"numbers": [1, 2, 3], "sum_s": 1.0}})))
    hub.take(parts(state(alarms=[{"key": str(k)} for k in range(5000)])))
    assert len(exposed(hub)) < 200


def test_metrics_are_served_and_guarded_by_the_token():
    async def scenario(service, host):
        service.send(state(**NUMBERS))
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            assert (await client.get("/metrics")).status_code == 401
            client.headers["Authorization"] = "Bearer word"
            answer = await client.get("/metrics")
            while "frames_total" not in answer.text:
                answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            assert samples(answer.text)["frames_total{fate=received}"] == 79
            assert samples(answer.text)["process_resident_memory_bytes"] > 1e6, "the dashboard's own memory"

    run(scenario, token="word")


def test_the_tally_counts_frames_results_and_each_latency_once():
    tally = Tally()
    tally.curve(FrameAccount(expected=10, received=8, missing=(3, 4), duplicate=1, bad=2))
    latencies = {"latency_assemble_s": 0.01, "latency_infer_s": 0.3, "chi2": 0.1}
    tally.result("inference", "preliminary", 0.4, latencies)
    tally.result("reconstruction", "good", 500.0, latencies | {"latency_phase_s": 3.0})
    tally.result("refinement", "doubtful")
    counts = tally.as_dict()
    assert counts["curves"] == 1
    assert counts["frames"] == {"received": 8, "missing": 2, "duplicate": 1, "late": 0, "bad": 2}
    assert counts["results"] == {
        "inference": {"preliminary": 1, "failed": 0},
        "reconstruction": {"good": 1, "doubtful": 0, "failed": 0},
        "refinement": {"good": 0, "doubtful": 1, "failed": 0},
    }
    assert {step: sum(entry["numbers"]) for step, entry in counts["latencies"].items()} == dict.fromkeys(
        ("inference", "assemble", "infer", "reconstruction", "phase"), 1
    )
    assert counts["latencies"]["reconstruction"]["numbers"][-1] == 1, "above the last bound"
    assert counts["latencies"]["phase"]["numbers"].index(1) == LATENCY_BOUNDS_S.index(5.0)
