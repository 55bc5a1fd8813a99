"""The dashboard's own memory of the last results, in a file."""

from __future__ import annotations

import asyncio
import json
import logging

import numpy as np
import pytest

from cdi_stream.errors import InputError
from cdi_stream.operators import history
from cdi_stream.operators.history import Keeper, Results, load_history, read_history, write_history
from cdi_stream.operators.hub import KEPT_RESULTS, Hub
from tests.system.browser import result
from tests.unit.test_dashboard import drained, parts

HEADERS = [{"kind": "result", "stage": "inference", "verdict": "good", "scan_id": n} for n in range(3)]


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "new folder" / "history.json"
    assert read_history(path) == Results()
    header, images = result("reconstruction")
    write_history(path, Results(headers=HEADERS, newest=[(header, images)]))
    found = read_history(path)
    assert list(found.headers) == HEADERS
    (again, pictures), *none = found.newest
    assert not none
    assert again["verdict"] == "good"
    assert pictures.keys() == images.keys()
    for name, image in images.items():
        np.testing.assert_array_equal(pictures[name], image)


def test_the_file_stays_small(tmp_path, monkeypatch):
    path = tmp_path / "history.json"
    monkeypatch.setattr(history, "MAX_FILE_BYTES", 4000)
    write_history(path, Results(headers=HEADERS, newest=[result("reconstruction")]))
    assert path.stat().st_size <= 4000
    assert (list(read_history(path).headers), list(read_history(path).newest)) == (HEADERS, [])


DAMAGED = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "no object": b"[]",
    "another schema": b'{"schema": "cdi_stream dashboard history 99", "results": [], "newest": []}',
    "nested": b"[" * 200_000,
    "results that are none": json.dumps({"schema": history.SCHEMA, "results": [1], "newest": []}).encode(),
    "infinite": json.dumps({"schema": history.SCHEMA, "results": [{"a": float("inf")}], "newest": []}).encode(),
    "no base64": json.dumps({"schema": history.SCHEMA, "results": [], "newest": [["!"]]}).encode(),
    "no message": json.dumps({"schema": history.SCHEMA, "results": [], "newest": [["AAAA"]]}).encode(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_put_aside_and_the_history_begins_anew(tmp_path, caplog, name):
    path = tmp_path / "history.json"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(InputError, match=r"history\.json: expected the dashboard's history"):
        read_history(path)
    with caplog.at_level(logging.WARNING):
        assert load_history(path) == Results()
    assert "renamed to history.json.damaged" in caplog.text
    assert not path.exists()
    assert (tmp_path / "history.json.damaged").read_bytes() == DAMAGED[name]


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "history.json"
    write_history(path, Results(headers=HEADERS))
    monkeypatch.setattr(history, "MAX_FILE_BYTES", 10)
    with pytest.raises(InputError, match="expected at most 10 bytes"):
        read_history(path)


def test_the_next_dashboard_begins_with_the_results_of_the_last_one(tmp_path):
    path = tmp_path / "history.json"
    first = Hub(on_results=lambda results: write_history(path, results))
    for curve in range(KEPT_RESULTS + 3):
        header, images = result("reconstruction", curve=curve)
        first.take(parts((header | {"time_s": 1000.0 + curve}, images)))
    second = Hub(lambda: 0.0, lambda: 1100.0, read_history(path))
    (past, _), (newest, images) = drained(second)
    assert [one["curve_index"] for one in past["results"]] == list(range(3, KEPT_RESULTS + 3))
    assert (newest["curve_index"], newest["age_s"]) == (KEPT_RESULTS + 2, 1100.0 - 1000.0 - (KEPT_RESULTS + 2))
    np.testing.assert_array_equal(images["amplitude_z"], result("reconstruction")[1]["amplitude_z"])
    assert second.feed_age_s() is None, "the service itself has not been heard"


def test_the_last_result_is_on_disk_when_the_dashboard_ends(tmp_path):
    path = tmp_path / "history.json"

    async def scenario():
        keeper = Keeper(path)
        task = asyncio.create_task(keeper.run())
        for n in range(1, 4):
            keeper.keep(Results(headers=HEADERS[:n]))
            await asyncio.sleep(0)
        while not path.exists():
            await asyncio.sleep(0.01)
        keeper.keep(Results(headers=HEADERS))
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
    assert list(read_history(path).headers) == HEADERS


def test_a_disk_that_cannot_be_written_is_told_and_survived(tmp_path, caplog):
    blocked = tmp_path / "a file"
    blocked.touch()

    async def scenario():
        keeper = Keeper(blocked / "history.json")
        keeper.keep(Results(headers=HEADERS))
        task = asyncio.create_task(keeper.run())
        while "kept in memory only" not in caplog.text:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(scenario(), 10))
