"""The configuration file: what is read, and that every error names the key it is about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cdi_stream.config import Config, read_config, read_image
from cdi_stream.errors import ConfigError, GeometryError, PluginError
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.steps import SupportMode
from cdi_stream.phasing.support import ShrinkWrap

MINIMAL = """
[detector]
endpoint = "tcp://127.0.0.1:9999"
[documents]
subscribe = "127.0.0.1:5578"
publish = "127.0.0.1:5577"
[geometry]
beamline = "aps_34idc"
"""
INLINE = """
name = "mine"
sample_circles = [["mu", "x-", "MU", "mu_readback"], ["omega", "y+"]]
detector_circles = [["delta", "y+"]]
row_direction = "y-"
col_direction = "x+"
"""


def read(folder: Path, text: str) -> Config:
    path = folder / "beamline.toml"
    path.write_text(text)
    return read_config(path)


def with_key(section: str, line: str) -> str:
    """The minimal file with one more line in a section, which may be new."""
    if f"[{section}]" not in MINIMAL:
        return f"{MINIMAL}[{section}]\n{line}\n"
    return MINIMAL.replace(f"[{section}]\n", f"[{section}]\n{line}\n")


def with_inline(old: str = "", new: str = "") -> str:
    return MINIMAL.replace('beamline = "aps_34idc"', "") + "[geometry.inline]" + INLINE.replace(old, new)


def test_a_minimal_file_has_defaults_for_the_rest(tmp_path):
    config = read(tmp_path, MINIMAL)
    assert config.detector.endpoint == "tcp://127.0.0.1:9999"
    assert (config.detector.socket, config.detector.bind, config.detector.format) == ("pull", False, "dectris2")
    assert config.documents.serializer == "msgpack"
    assert config.publish.lab_shape == (96, 96, 96)
    assert config.device == "cpu"
    assert config.geometry.value().name == "aps_34idc"


def test_a_network_goes_by_name_or_by_file(tmp_path):
    named = read(tmp_path, with_key("network", 'file = "wu2021-small"')).network.file
    assert named == DEFAULT_NETWORK.with_name("wu2021_small.pt")
    for path in ("mine.pt", "/some/where/mine", "./mine"):
        assert str(read(tmp_path, with_key("network", f'file = "{path}"')).network.file) in path
    with pytest.raises(ConfigError, match=r"network.file.*one of .*wu2021-small.*, got 'mine'"):
        read(tmp_path, with_key("network", 'file = "mine"'))


@pytest.mark.parametrize(
    ("section", "line", "key"),
    [
        ("detector", "colour = 1", "detector.colour"),
        ("detector", "roi = [5, 5, 0, 9]", "detector.roi"),
        ("detector", "roi = [0, 5, 9, 0]", "detector.roi"),
        ("detector", "roi = [-1, 5, 0, 9]", "detector.roi"),
        ("detector", "roi = [0, 5, 0]", "detector.roi"),
        ("detector", 'socket = "push"', "detector.socket"),
        ("detector", "max_pixels = 0", "detector.max_pixels"),
        ("documents", 'serializer = "yaml"', "documents.serializer"),
        ("geometry", "distance_m = -1.0", "geometry.distance_m"),
        ("geometry", 'circles_deg = {mu = "a"}', "geometry.circles_deg.mu"),
        ("assemble", "late_grace_s = 0", "assemble.late_grace_s"),
        ("prepare", "max_shape = [1, 2]", "prepare.max_shape"),
        ("polish", "recipe = 5", "polish.recipe"),
        ("publish", "lab_size = 3", "publish.lab_size"),
        ("made_up", "a = 1", "made_up"),
    ],
)
def test_a_key_that_is_wrong_is_named(tmp_path, section, line, key):
    with pytest.raises(ConfigError, match=rf"beamline.toml:\n  {key}[.:]"):
        read(tmp_path, with_key(section, line))


def test_a_value_that_is_wrong_is_quoted(tmp_path):
    with pytest.raises(ConfigError, match=r"detector.roi: .*first row, row after the last.*got \[5, 5, 0, 9\]"):
        read(tmp_path, with_key("detector", "roi = [5, 5, 0, 9]"))


def test_a_key_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"  detector.endpoint: Field required"):
        read(tmp_path, MINIMAL.replace("endpoint", "address"))


def test_every_wrong_key_has_a_line(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, with_key("publish", "a = 1\nb = 2\npreview_every_s = -1"))
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["publish.preview_every_s", "publish.a", "publish.b"]


def test_bad_toml_is_refused_with_its_place(tmp_path):
    with pytest.raises(ConfigError, match=r"beamline.toml is not TOML: .*line 2"):
        read(tmp_path, "[detector]\nendpoint = \n")


def test_a_missing_file_points_to_the_example(tmp_path):
    with pytest.raises(ConfigError, match=r"no_such.toml does not exist; .* example"):
        read_config(tmp_path / "no_such.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "beamline.toml"
    path.write_bytes(b"name = '\xff\xfe'")
    with pytest.raises(ConfigError, match=r"beamline.toml"):
        read_config(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=tmp_path.name):
        read_config(tmp_path)


def test_a_beamline_may_be_written_out(tmp_path):
    beamline = read(tmp_path, with_inline()).geometry.value()
    mu, omega = beamline.sample_circles
    assert (mu.name, mu.axis, mu.motors) == ("mu", (-1, 0, 0), ("MU", "mu_readback"))
    assert (omega.name, omega.axis, omega.motors) == ("omega", (0, 1, 0), ())
    assert (beamline.row_direction, beamline.col_direction) == ((0, -1, 0), (1, 0, 0))


@pytest.mark.parametrize(
    "text", [MINIMAL.replace('beamline = "aps_34idc"', ""), MINIMAL + "[geometry.inline]" + INLINE]
)
def test_neither_and_both_ways_to_a_beamline_are_refused(tmp_path, text):
    config = read(tmp_path, text)
    with pytest.raises(ConfigError, match=r"geometry: expected either 'beamline'.* or a table 'inline'"):
        config.geometry.value()


@pytest.mark.parametrize(
    ("old", "new", "error", "reason"),
    [
        ('["omega", "y+"]', '["omega"]', ConfigError, r"geometry.inline: expected a circle .*got \['omega'\]"),
        ('"y+"', '"up"', GeometryError, "got 'up'"),
        ('row_direction = "y-"', 'row_direction = "w-"', GeometryError, "got 'w-'"),
    ],
)
def test_a_beamline_written_out_wrongly_is_refused(tmp_path, old, new, error, reason):
    config = read(tmp_path, with_inline(old, new))
    with pytest.raises(error, match=reason):
        config.geometry.value()


def test_an_unknown_beamline_lists_those_installed(tmp_path):
    config = read(tmp_path, MINIMAL.replace("aps_34idc", "moon"))
    with pytest.raises(PluginError, match=r"'moon'; installed are: .*aps_34idc"):
        config.geometry.value()


def test_the_hash_follows_what_decides_a_result_and_nothing_else(tmp_path):
    def sha(text, network="n"):
        return read(tmp_path, text).sha256(network)

    plain = sha(MINIMAL)
    assert sha(MINIMAL.replace("9999", "9998")) == plain
    assert sha(with_key("publish", 'directory = "elsewhere"')) == plain
    assert sha(MINIMAL, network="another") != plain
    for section, line in (
        ("geometry", "distance_m = 0.6"),
        ("polish", 'recipe = "5*ER"'),
        ("detector", "roi = [0, 8, 0, 8]"),
        ("publish", "lab_shape = [64, 64, 64]"),
    ):
        assert sha(with_key(section, line)) != plain, line
    white = tmp_path / "white.npy"
    white.write_bytes(b"one")
    first = sha(with_key("detector", f'white_field = "{white}"'))
    white.write_bytes(b"two")
    assert sha(with_key("detector", f'white_field = "{white}"')) != first


def test_a_configuration_cannot_be_changed_by_accident(tmp_path):
    config = read(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.threads = 3


@pytest.mark.parametrize("suffix", ["npy", "tif", "tiff"])
def test_an_image_is_read_from_its_file(tmp_path, suffix):
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    path = tmp_path / f"bad_pixels.{suffix}"
    (np.save if suffix == "npy" else tifffile.imwrite)(path, image)
    np.testing.assert_array_equal(read_image(path), image)


@pytest.mark.parametrize("name", ["image.npy", "image.tif"])
@pytest.mark.parametrize("content", [b"", b"neither npy nor tif", None])
def test_a_file_that_is_no_image_is_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: expected an image"):
        read_image(tmp_path / name)


def test_recipes_carry_their_support_updates(tmp_path):
    config = read(tmp_path, MINIMAL)
    of_border = ShrinkWrap(every=10, after=0, threshold=0.2, relative="max", sigma_vox=1.0)
    for text, update, cycles in (
        (config.refine.recipe, of_border, 300),
        (config.refine.network_recipe, of_border, 30),
    ):
        recipe = parse_recipe(text)
        assert update in recipe.steps
        assert SupportMode("border") in recipe.steps
        assert recipe.cycles == cycles
