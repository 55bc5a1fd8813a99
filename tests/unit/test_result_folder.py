"""Folders of results from a template over the start document: safe names, permissions, and nothing lost."""

from __future__ import annotations

import pytest

from cdi_stream.disk.result_folder import ResultFolder, keys_of
from cdi_stream.errors import ConfigError


def test_each_proposal_has_its_folder(tmp_path):
    folder = ResultFolder(base=tmp_path, template="{cycle}/p-{proposal}")
    made = folder.of({"cycle": "2026-3", "proposal": 123456})
    assert made == tmp_path / "2026-3" / "p-123456"
    assert made.is_dir()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("../../etc", "_.._etc"),
        ("a/b c\n", "a_b_c_"),
        (None, "unknown"),
        ("", "unknown"),
        ("...", "unknown"),
        ({"name": "gold 7"}, "gold_7"),
        ("x" * 500, "x" * 80),
        (3.5, "3.5"),
        ("Größe", "Größe"),
    ],
)
def test_values_become_safe_names(tmp_path, value, name):
    made = ResultFolder(base=tmp_path, template="{proposal}").of({"proposal": value})
    assert made == tmp_path / name
    assert made.resolve().is_relative_to(tmp_path.resolve())


def test_a_missing_value_is_unknown(tmp_path):
    assert (
        ResultFolder(base=tmp_path, template="{proposal}/{sample}").of({"sample": "Au"}) == tmp_path / "unknown" / "Au"
    )


def test_without_a_template_all_results_lie_in_one_folder(tmp_path):
    assert ResultFolder(base=tmp_path / "results").of({"proposal": 1}) == tmp_path / "results"


def test_the_folders_have_their_permissions(tmp_path):
    made = ResultFolder(base=tmp_path, template="{cycle}/{proposal}", mode=0o2750).of({"cycle": "c", "proposal": "p"})
    assert [path.stat().st_mode & 0o7777 for path in (made, made.parent)] == [0o2750, 0o2750]


@pytest.mark.parametrize("change", [{"group": "no-such-group"}, {"template": "{blocked}"}])
def test_a_folder_that_cannot_be_made_loses_no_result(tmp_path, caplog, change):
    (tmp_path / "file").write_text("")
    folder = ResultFolder(base=tmp_path, **{"template": "{proposal}/below", **change})
    if "template" in change:
        folder = ResultFolder(base=tmp_path, template="file/{proposal}")
    assert folder.of({"proposal": "p"}) == tmp_path
    assert "cannot be made" in caplog.text


@pytest.mark.parametrize("template", ["/data/{x}", "../{x}", "{x", "{x!r}", "{x:>9}", "{0}", "{}", "{a.b}", "{a[b]}"])
def test_a_template_that_is_no_folder_inside_is_refused(template):
    with pytest.raises(ConfigError, match="expected a folder"):
        keys_of(template)
