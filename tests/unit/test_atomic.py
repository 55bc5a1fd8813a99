from __future__ import annotations

import pytest

from cdi_stream.disk.atomic import atomic_write


def test_the_name_appears_only_when_the_file_is_whole(tmp_path):
    path = tmp_path / "new folder" / "result.json"
    with atomic_write(path) as part:
        part.write_text("whole")
        assert not path.exists()
        assert part.parent == path.parent
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        raise RuntimeError(part.write_text("half of it"))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
