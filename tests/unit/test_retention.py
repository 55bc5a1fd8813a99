"""Old result files are deleted, and refinement waits while the disk is nearly full."""

from __future__ import annotations

import os

import pytest

from cdi_stream.alarms import Alarms
from cdi_stream.config.retention import RetentionConfig
from cdi_stream.disk.retention import EVERY_S, Retention
from cdi_stream.disk.space import SpaceGuard
from cdi_stream.live.housekeeping import Housekeeping

DAY_S = 86_400.0
NOW_S = 1e9


@pytest.fixture
def folder(tmp_path):
    for name, days in (
        ("a_0001_preview", 2), ("a_0001_reconstruction", 2), ("p1/b_0001_preview", 8), ("b_0001_preview", 0.5),
        ("c_0001_reconstruction", 400), ("queue", 400),
    ):  # fmt: skip
        path = tmp_path / f"{name}.h5"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (NOW_S - days * DAY_S,) * 2)
    return tmp_path


def names(folder):
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.h5"))


def retention(folder, config, clock=lambda: 0.0):
    return Retention(folder, config.days, clock, lambda: NOW_S)


def test_files_are_deleted_when_the_time_of_their_stage_is_over(folder):
    assert retention(folder, RetentionConfig(preview_days=1, reconstruction_days=365)).run() == 3
    assert names(folder) == ["a_0001_reconstruction", "b_0001_preview", "queue"]


def test_without_a_time_everything_is_kept(folder):
    before = names(folder)
    assert retention(folder, RetentionConfig()).run() == 0
    assert names(folder) == before


def test_files_are_looked_for_once_an_hour(folder):
    clock_s = [0.0]
    keeper = retention(folder, RetentionConfig(preview_days=1), lambda: clock_s[0])
    assert [keeper.run(), keeper.run()] == [2, 0]
    os.utime(folder / "b_0001_preview.h5", (NOW_S - 3 * DAY_S,) * 2)
    assert keeper.run() == 0
    clock_s[0] = EVERY_S
    assert keeper.run() == 1


def test_a_file_that_cannot_be_deleted_stays(folder, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    assert retention(folder, RetentionConfig(preview_days=1)).run() == 0
    assert "cannot be deleted" in caplog.text


def test_a_disk_that_is_nearly_full_is_short_until_a_quarter_more_is_free(tmp_path):
    free = [10e9]
    guard = SpaceGuard(tmp_path, 2_000_000_000, lambda _: int(free[0]))
    shorts = []
    for free[0] in (10e9, 2.1e9, 1.9e9, 2.1e9, 2.4e9, 2.6e9, 2.1e9):
        shorts.append(bool(guard.problem()))
    assert shorts == [False, False, True, True, True, False, False]
    free[0] = 1e9
    assert "nearly full, 1.0 GB are free: refinement waits until 2.5 GB are free" in guard.problem()


def test_the_disk_is_looked_at_no_more_often_than_asked(tmp_path):
    looks, clock_s = [], [0.0]
    free = lambda _: looks.append(1) or 10**12  # noqa: E731
    guard = SpaceGuard(tmp_path, 1000, free, every_s=1.0, clock=lambda: clock_s[0])
    for clock_s[0] in (0.0, 0.4, 0.9, 1.0, 1.5, 2.0):
        assert guard.problem() == ""
    assert len(looks) == 3


def test_the_space_of_the_real_disk_is_read(tmp_path):
    assert SpaceGuard(tmp_path, 1000).problem() == ""
    assert "nearly full" in SpaceGuard(tmp_path, 1 << 62).problem()
    assert SpaceGuard(tmp_path / "nowhere", 1 << 62).problem() == ""


def test_the_alarm_comes_and_goes_with_the_space(folder):
    free, alarms = [10e9], Alarms()
    guard = SpaceGuard(folder, 2_000_000_000, lambda _: int(free[0]))
    house = Housekeeping(retention=retention(folder, RetentionConfig(preview_days=1)), guard=guard, alarms=alarms)
    house.run()
    assert (alarms.active(), len(names(folder))) == ([], 4)
    free[0] = 1e9
    house.run()
    assert [alarm["key"] for alarm in alarms.active()] == ["space"]
    free[0] = 3e9
    house.run()
    assert alarms.active() == []
