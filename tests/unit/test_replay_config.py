"""A replay takes settings from a configuration, and neither its endpoints nor its folders."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdi_stream.config import Config, read_config
from cdi_stream.messages import RecordedScan
from cdi_stream.replay.endpoints import PLACES, example_config, own_config, to_toml

SCAN = RecordedScan(
    name="scan 1",
    frames=np.ones((3, 4, 5), dtype=np.uint16),
    beamline="aps_34idc",
    scanned={"theta": np.arange(3.0), "Monitor": np.ones(3)},
    baseline={},
    units={},
)
PRODUCTION = """
device = "cpu"
threads = 3
[detector]
endpoint = "tcp://10.1.2.3:31001"
socket = "sub"
format = "dectris1"
roi = [0, 64, 8, 72]
saturation_counts = 12345.0
[documents]
subscribe = "tcp://10.1.2.4:5578"
publish = "tcp://10.1.2.4:5577"
prefix = "production"
serializer = "json"
[geometry]
inline = {name = "a \\"quoted\\" line", sample_circles = [["odd name", "x-", "motor 1"]], detector_circles = [], row_direction = "y-", col_direction = "x+"}
circles_deg = {"odd name" = 1.5}
distance_m = 0.85
[assemble]
monitor = "ion"
[prepare]
max_shape = [64, 96, 96]
[phase]
budget_s = 4.0
[publish]
directory = "/production/results"
lab_shape = [64, 64, 64]
tiled = "http://production:8000"
tiled_api_key = "secret"
json_lines = "/production/lines.json"
[refine]
methods = ["auto", "recipe"]
[feed]
endpoint = "tcp://127.0.0.1:5580"
[dashboard]
token = "secret too"
"""  # noqa: E501
SETTINGS = {
    "device",
    "threads",
    "geometry",
    "assemble.late_grace_s",
    "assemble.reading_timeout_s",
    "assemble.idle_timeout_s",
    "assemble.monitor",
    "prepare",
    "network",
    "phase",
    "detector.socket",
    "detector.bind",
    "detector.format",
    "detector.channel",
    "detector.roi",
    "detector.max_pixels",
    "detector.max_message_bytes",
    "detector.max_queue_bytes",
    "detector.max_images",
    "detector.max_series_bytes",
    "detector.bad_pixels",
    "detector.white_field",
    "detector.saturation_counts",
    "publish.copied_keys",
    "publish.lab_shape",
    "publish.preview_every_s",
    "publish.preview_fractions",
    "publish.max_waiting_bytes",
}
"""What a replay takes from a configuration: a key that is new has its place here or in `PLACES`."""


@pytest.fixture
def production(tmp_path):
    path = tmp_path / "beamline.toml"
    path.write_text(PRODUCTION)
    return read_config(path)


def parsed(text: str, folder: Path) -> Config:
    path = folder / "replay.toml"
    path.write_text(text)
    return read_config(path)


def test_each_key_is_a_setting_or_a_place():
    keys = set()
    for name, section in Config.model_fields.items():
        whole = name in SETTINGS or PLACES.get(name) is True
        keys |= {name} if whole else {f"{name}.{key}" for key in section.annotation.model_fields}
    places = {name for name, keys in PLACES.items() if keys is True}
    places |= {f"{name}.{key}" for name, keys in PLACES.items() if keys is not True for key in keys}
    assert keys == SETTINGS | places


BARE = replace(SCAN, white_field=None, scanned={"theta": np.arange(3.0)})
"""A scan that has no settings on record."""


def test_what_the_scan_has_on_record_is_used_where_the_configuration_names_nothing(production, tmp_path):
    scan = replace(SCAN, white_field=np.full((4, 5), 0.5, dtype=np.float32))
    detector = production.detector.model_copy(update={"white_field": None})
    assemble = production.assemble.model_copy(update={"monitor": None})
    bare = production.model_copy(update={"detector": detector, "assemble": assemble})
    own = parsed(own_config(bare, scan, tmp_path), tmp_path)
    np.testing.assert_array_equal(np.load(own.detector.white_field), scan.white_field)
    assert own.assemble.monitor == "Monitor"
    named = production.model_copy(update={"assemble": assemble.model_copy(update={"monitor": "ic3"})})
    assert parsed(own_config(named, scan, tmp_path), tmp_path).assemble.monitor == "ic3"


def test_nothing_of_production_is_used_but_settings(production, tmp_path):
    text = own_config(production, BARE, tmp_path / "replay")
    for place in ("10.1.2", "/production", "http://", "secret", "5580", 'prefix = "production"'):
        assert place not in text
    own = parsed(text, tmp_path)
    endpoints = {own.detector.endpoint, own.documents.subscribe, own.documents.publish}
    assert len(endpoints) == 3
    assert all(endpoint.startswith("tcp://127.0.0.1:") for endpoint in endpoints)
    assert own.publish.directory == tmp_path / "replay"
    assert (own.publish.tiled, own.publish.json_lines, own.feed.endpoint) == ("local", None, None)
    assert own.refine.methods == ()


def test_settings_are_those_of_production(production, tmp_path):
    own = parsed(own_config(production, BARE, tmp_path), tmp_path)
    kept = {"exclude": PLACES}
    assert own.model_dump(**kept) == production.model_dump(**kept)
    assert own.sha256("network") == production.sha256("network")


def test_no_tiled_server_where_production_has_none(production, tmp_path):
    without = production.model_copy(update={"publish": production.publish.model_copy(update={"tiled": None})})
    assert parsed(own_config(without, BARE, tmp_path), tmp_path).publish.tiled is None


def test_refinement_is_kept_where_it_is_asked_for(production, tmp_path):
    own = parsed(own_config(production, BARE, tmp_path, is_refining=True), tmp_path)
    assert own.refine == production.refine


def test_the_example_knows_what_the_scan_knows(tmp_path):
    scan = replace(SCAN, white_field=np.full((4, 5), 0.5, dtype=np.float32))
    own = parsed(example_config(scan, tmp_path), tmp_path)
    assert own.geometry.beamline == "aps_34idc"
    assert own.assemble.monitor == "Monitor"
    np.testing.assert_array_equal(np.load(own.detector.white_field), scan.white_field)
    inline = {"name": "here", "sample_circles": [["mu", "x-"]], "detector_circles": []}
    written_out = replace(SCAN, beamline=inline | {"row_direction": "y-", "col_direction": "x+"})
    assert parsed(example_config(written_out, tmp_path), tmp_path).geometry.inline.sample_circles == [["mu", "x-"]]


@pytest.mark.parametrize(
    "value", ['a "b" \\ \n \x7f ä', 1, -1e-7, 2.5e300, True, [1, [2]], {"odd key!": {"x": [False]}}]
)
def test_toml_comes_back_as_it_was(value):
    config = {"top": 1, "section": {"key": value}}
    assert tomllib.loads(to_toml(config)) == config
