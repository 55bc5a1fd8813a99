"""Plugins by entry point, found where importlib.metadata finds them: in dist-info folders on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdi_stream.errors import PluginError
from cdi_stream.registry import GROUPS, load, names

GROUP = "cdi_stream.reader"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write a distribution with one plugin and one module, as an installer would leave them."""
    before = set(sys.modules)

    def write(distribution: str, plugin: str, *, group: str = GROUP, source: str = "VALUE = 'loaded'") -> None:
        module = f"made_up_{distribution}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{plugin} = {module}:VALUE\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("made_up_"):
            del sys.modules[name]


def test_a_plugin_is_loaded_by_its_name(install):
    install("first", "made_up")
    assert load(GROUP, "made_up") == "loaded"


def test_names_are_listed_without_importing(install):
    install("first", "made_up", source="raise RuntimeError('imported')")
    assert "made_up" in names(GROUP)
    assert list(names(GROUP)) == sorted(set(names(GROUP)))
    assert "made_up_first" not in sys.modules


def test_an_unknown_name_lists_those_that_are_known(install):
    install("first", "made_up")
    with pytest.raises(PluginError, match=r"unknown cdi_stream.reader 'typo'; installed are: .*made_up"):
        load(GROUP, "typo")


def test_a_name_of_another_group_is_unknown(install):
    install("first", "made_up", group="cdi_stream.sink")
    with pytest.raises(PluginError, match=r"unknown cdi_stream.reader 'made_up'"):
        load(GROUP, "made_up")


def test_an_empty_group_says_so():
    with pytest.raises(PluginError, match="installed are: none"):
        load("cdi_stream.no_such_group", "anything")


def test_a_name_provided_twice_names_both_providers(install):
    install("first", "made_up")
    install("second", "made_up")
    with pytest.raises(PluginError, match="'made_up' is provided by first and second: uninstall one"):
        load(GROUP, "made_up")


@pytest.mark.parametrize(
    "source",
    ["import no_such_module_anywhere", "from json import no_such_name", "OTHER = 1", "VALUE = (", "VALUE = 1 / 0"],
)
def test_a_plugin_that_fails_to_import_names_its_provider(install, source):
    install("first", "made_up", source=source)
    with pytest.raises(PluginError, match="'made_up' of first"):
        load(GROUP, "made_up")


@pytest.mark.parametrize("group", GROUPS)
def test_every_plugin_of_the_project_loads(group):
    assert names(group)
    assert all(load(group, name) is not None for name in names(group))
