"""The configuration file: what is read, and that every error names the key it is about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cdi_stream.config import Config, prepare_folder, read_config, read_image
from cdi_stream.errors import ConfigError
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import SupportMode
from cdi_stream_plugins.bluesky import CdiStream

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
        ("geometry", 'circles_deg = {chi = "a"}', "geometry.circles_deg.chi"),
        ("assemble", "late_grace_s = 0", "assemble.late_grace_s"),
        ("prepare", "max_shape = [1, 2]", "prepare.max_shape"),
        ("phase", "recipe = 5", "phase.recipe"),
        ("publish", "lab_size = 3", "publish.lab_size"),
        ("made_up", "a = 1", "made_up"),
    ],
)
def test_a_key_that_is_wrong_is_named(tmp_path, section, line, key):
    with pytest.raises(ConfigError, match=rf"beamline.toml:\n  {key}[.:]"):
        read(tmp_path, with_key(section, line))


def test_a_table_under_its_former_name_is_refused_with_the_present_one(tmp_path):
    with pytest.raises(ConfigError, match=r"expected \[phase\], got \[polish\]"):
        read(tmp_path, with_key("polish", "budget_s = 5"))


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
    with pytest.raises(ConfigError, match=r"geometry: expected either 'beamline'.* or a table 'inline'"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('["omega", "y+"]', '["omega"]', r"sample_circles: expected a circle as \[name, signed axis.*got \['omega'\]"),
        ('["omega", "y+"]', '["", "y+"]', "sample_circles: expected a circle as"),
        ('["omega", "y+"]', '["delta", "y+"]', "inline: expected each motor in one circle, got delta in several"),
        ('"y+"', '"up"', "sample_circles: expected a signed axis .*got 'up'"),
        ('row_direction = "y-"', 'row_direction = "w-"', "row_direction: expected a signed axis .*got 'w-'"),
        ('row_direction = "y-"', 'row_direction = "z-"', "row_direction: .*stands across the beam.*got 'z-'"),
        ('row_direction = "y-"', 'row_direction = "x-"', "inline: expected row_direction and col_direction across"),
        ('name = "mine"', 'name = ""', "name: expected a name"),
        ('name = "mine"', 'name = "mine"\nenergy_readings = [["mono", "J"]]', "energy_readings.0.1: expected 'eV' or"),
        ('name = "mine"', 'name = "mine"\ndistance_readings = [["z"]]', "distance_readings.0"),
    ],
)
def test_a_beamline_written_out_wrongly_is_refused(tmp_path, old, new, reason):
    with pytest.raises(ConfigError, match=rf"  geometry\.inline.*{reason}|  geometry\.{reason}"):
        read(tmp_path, with_inline(old, new))


def test_energy_and_distance_may_have_names_of_their_own(tmp_path):
    names = (
        'name = "mine"\nenergy_readings = [["mono_energy", "keV"]]\ndistance_readings = [["det_z", "mm"], ["z", "m"]]'
    )
    beamline = read(tmp_path, with_inline('name = "mine"', names)).geometry.value()
    assert beamline.energy_readings == (("mono_energy", "keV"),)
    assert beamline.distance_readings == (("det_z", "mm"), ("z", "m"))


def test_an_unknown_beamline_lists_those_installed(tmp_path):
    with pytest.raises(ConfigError, match=r"geometry.beamline: unknown name; installed are: aps_34idc.*, got 'moon'"):
        read(tmp_path, MINIMAL.replace("aps_34idc", "moon"))


NAN, TWICE = "expected 0.001 to 1000 m, got nan", "tcp://127.0.0.1:5578"
WRONG = {
    "max_shape 0": ("prepare", "max_shape = [0, 64, 64]", r"prepare.max_shape.0: expected 8 to 512 voxels .*, got 0"),
    "lab_shape 0": ("publish", "lab_shape = [96, 96, 0]", r"publish.lab_shape.2: expected 8 to 512 voxels .*, got 0"),
    "lab_shape < 0": ("publish", "lab_shape = [-96, 96, 96]", "publish.lab_shape.0: expected 8 to 512 .*, got -96"),
    "lab_shape 3000": ("publish", "lab_shape = [96, 3000, 96]", "publish.lab_shape.1: expected 8 to 512 .*, got 3000"),
    "nan": ("geometry", "distance_m = nan", f"geometry.distance_m: {NAN}"),
    "inf": ("geometry", "beam_row = inf", "geometry.beam_row: expected -1e.06 to 1e.06 pixels, got inf"),
    "nan seconds": ("assemble", "idle_timeout_s = nan", "assemble.idle_timeout_s: expected 0.001 to 86400 s, got nan"),
    "negative time": ("publish", "preview_every_s = -1", "publish.preview_every_s: expected .* s, got -1"),
    "energy in keV": ("geometry", "photon_energy_ev = 8.9", "geometry.photon_energy_ev: .*8.9 keV is 8900, got 8.9"),
    "pixel in um": ("geometry", "pixel_row_m = 55", "geometry.pixel_row_m: .*55 um is 55e-6, got 55"),
    "unknown circle": ("geometry", "circles_deg = {mu = 1.0}", "geometry: expected circles_deg of .*theta.*, got mu"),
    "angle": (
        "geometry",
        "circles_deg = {chi = inf}",
        "geometry.circles_deg.chi: expected -360 to 360 degrees, got inf",
    ),
    "threads": ("refine", "threads = 10000", "refine.threads: expected 1 to 256 threads, got 10000"),
    "no threads": ("refine", "threads = 0", "refine.threads: expected 1 to 256 threads, got 0"),
    "bytes": (
        "detector",
        f"max_queue_bytes = {10**30}",
        "detector.max_queue_bytes: expected 1000 to 7.03687e.13 bytes",
    ),
    "roi": ("detector", "roi = [0, 9999999, 0, 5]", "detector.roi: expected .*from 0 to 1000000, got"),
    "format": ("detector", 'format = "xml"', "detector.format: unknown name; installed are: array1.*, got 'xml'"),
    "no mask": (
        "detector",
        'bad_pixels = "no.npy"',
        r"detector.bad_pixels: expected a file, got nothing at /.*no\.npy",
    ),
    "a folder": ("detector", 'white_field = "/"', "detector.white_field: expected a file, got a folder at /"),
    "recipe": ("phase", 'recipe = "50*EM"', "phase.recipe: .*EM"),
    "engine": ("refine", 'engine = "slurm"', "refine.engine: unknown name; installed are: dask, local, got 'slurm'"),
    "scheduler": (
        "refine",
        'engine = "dask"\nscheduler = "localhost:8786"',
        "refine.scheduler: expected the address of a Dask scheduler such as tcp://.*, got 'localhost:8786'",
    ),
    "scheduler of local": ("refine", 'scheduler = "tcp://a:1"', 'refine: expected engine = "dask" with scheduler'),
    "resources of local": ("refine", "resources = {GPU = 1}", 'refine: expected engine = "dask" with resources'),
    "lease": ("refine", "lease_s = 1", "refine.lease_s: expected 10 to 86400 s, got 1"),
    "no workers": ("refine", "workers = 0", "refine.workers: expected 1 to 1000 jobs, got 0"),
    "age": ("refine", "keep_done_days = -1", "refine.keep_done_days: expected 0 to 36500 days, got -1"),
    "recipe of the queue": ("refine", 'network_recipe = "ER*"', "refine.network_recipe: "),
    "tiled": ("publish", 'tiled = "locl"', "publish.tiled: expected 'local', 'none', or the address .*, got 'locl'"),
    "prefix": ("documents", 'prefix = "a b"', "documents.prefix: expected a prefix without blanks.*, got 'a b'"),
    "feed": ("feed", 'endpoint = "tcp://0.0.0.0:5580"', "feed.allow_other_machines: .*nothing guards the feed"),
    "feed for all": ("feed", 'endpoint = "tcp://*:5580"', "feed.allow_other_machines: .*got 'tcp://.:5580'"),
    "feed on a card": ("feed", 'endpoint = "tcp://eth0:5580"', "feed.allow_other_machines: .*nothing guards the feed"),
    "feed on IPv6": ("feed", 'endpoint = "tcp://[::]:5580"', "feed.allow_other_machines: .*nothing guards the feed"),
    "feed on the bus": (
        "feed",
        f'endpoint = "{TWICE}"',
        "  feed.endpoint: .*5578', which documents.subscribe has already",
    ),
    "page for all": ("dashboard", 'host = "0.0.0.0"', "dashboard.token: expected a token to serve other machines"),
    "port": ("dashboard", "port = 70000", "dashboard.port: expected 0 to 65535 .*, got 70000"),
    "folder": ("publish", 'directory = "/etc/passwd"', "publish.directory: expected a folder; /etc/passwd is a file"),
    "below a file": ("publish", 'directory = "/etc/passwd/a"', "publish.directory: .*/etc/passwd is a file"),
    "lines": ("publish", 'json_lines = "/tmp"', "publish.json_lines: expected a file; /tmp is a folder"),
}


@pytest.mark.parametrize(("section", "line", "words"), WRONG.values(), ids=WRONG)
def test_a_value_that_cannot_be_is_refused_in_one_line(tmp_path, section, line, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, with_key(section, line))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("localhost:9999", "expected tcp://host:port"),
        ("http://127.0.0.1:9999", "expected tcp://host:port"),
        ("udp://127.0.0.1:9999", "expected tcp://host:port"),
        ("tcp://127.0.0.1", "expected tcp://host:port"),
        ("tcp://127.0.0.1:", "expected tcp://host:port"),
        ("tcp://:9999", "expected tcp://host:port"),
        ("tcp://127.0.0.1:99999", "expected a port from 1 to 65535"),
        ("tcp://127.0.0.1:0", "expected a port from 1 to 65535"),
        ("tcp://::1:9999", r"with an IPv6 host in brackets as in tcp://\[::1\]:5555"),
        ("tcp://[1:2:3]:9999", "expected an IPv6 address in the brackets"),
        ("tcp://127.0.0.1:9999/path", "expected tcp://host:port"),
        ("tcp://host name:9999", "expected tcp://host:port"),
        ("", "expected tcp://host:port"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(tmp_path, endpoint, words):
    with pytest.raises(ConfigError, match=rf"  detector.endpoint: .*{words}.*, got '"):
        read(tmp_path, MINIMAL.replace("tcp://127.0.0.1:9999", endpoint))
    if endpoint:
        with pytest.raises(ConfigError, match=r"  documents.(subscribe|publish): expected"):
            read(tmp_path, MINIMAL.replace("127.0.0.1:5578", endpoint.replace("localhost:9999", "nonsense")))


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://[::1]:9999", "tcp://[fe80::1%eth0]:9999", "tcp://detector.lab:9999", "ipc:///run/d", "tcp://10.0.0.1;d:1"],
)
def test_all_forms_of_0mq_are_taken(tmp_path, endpoint):
    assert read(tmp_path, MINIMAL.replace("tcp://127.0.0.1:9999", endpoint)).detector.endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:9999", "tcp://*:9999", "tcp://[::]:9999"])
def test_an_address_of_all_cards_is_to_bind_only(tmp_path, endpoint):
    text = MINIMAL.replace("tcp://127.0.0.1:9999", endpoint)
    with pytest.raises(ConfigError, match=r"detector.bind: .*set bind = true if the detector connects"):
        read(tmp_path, text)
    assert read(tmp_path, text.replace("[documents]", "bind = true\n[documents]")).detector.bind


def test_a_loop_of_documents_is_refused_however_it_is_spelt(tmp_path):
    for address in ("127.0.0.1:5578", "tcp://localhost:5578", "tcp://[::1]:5578"):
        with pytest.raises(ConfigError, match=r"documents.publish: .*would go round in a loop, got "):
            read(tmp_path, MINIMAL.replace("127.0.0.1:5577", address))


def test_a_feed_for_other_machines_is_asked_for_by_a_key(tmp_path):
    lines = 'endpoint = "tcp://0.0.0.0:5580"\nallow_other_machines = true'
    assert read(tmp_path, with_key("feed", lines)).feed.endpoint == "tcp://0.0.0.0:5580"
    assert read(tmp_path, with_key("feed", lines.replace("allow_other_machines = true", 'secret = "s"'))).feed.secret
    with pytest.raises(ConfigError, match="nothing guards the feed; give it keys"):
        read(tmp_path, with_key("feed", 'endpoint = "tcp://0.0.0.0:5580"'))
    with pytest.raises(ConfigError, match="expected curve_secret and curve_server together"):
        read(tmp_path, with_key("feed", 'curve_secret = "s"'))


def test_toml_nested_without_end_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"beamline.toml is not TOML"):
        read(tmp_path, "a = " + "[" * 100_000)


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path):
    assert prepare_folder(tmp_path / "new" / "results").is_dir()
    for directory in ("/proc/results", "/sys"):
        with pytest.raises(
            ConfigError, match=rf"publish.directory: expected a folder that can be written, got {directory}"
        ):
            prepare_folder(Path(directory))


DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_good(path):
    assert read_config(path).geometry.value().sample_circles


def test_the_hash_follows_what_decides_a_result_and_nothing_else(tmp_path):
    def sha(text, network="n"):
        return read(tmp_path, text).sha256(network)

    plain = sha(MINIMAL)
    assert sha(MINIMAL.replace("9999", "9998")) == plain
    assert sha(with_key("publish", 'directory = "elsewhere"')) == plain
    assert sha(MINIMAL, network="another") != plain
    for section, line in (
        ("geometry", "distance_m = 0.6"),
        ("phase", 'recipe = "5*ER"'),
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


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path):
    header = np.lib.format.header_data_from_array_1_0(np.zeros((3, 4))) | {"shape": (900_000, 1000)}
    with (tmp_path / "lying.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ConfigError, match=r"lying.npy: expected an image as npy or tif: .*greater than file size"):
        read_image(tmp_path / "lying.npy")


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4)), np.zeros(5), np.array([["a"]]), np.zeros((2, 2), complex)])
def test_what_is_no_picture_is_refused(tmp_path, image):
    np.save(tmp_path / "image.npy", image)
    with pytest.raises(ConfigError, match="expected an image of rows and columns, got"):
        read_image(tmp_path / "image.npy")


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


@pytest.mark.parametrize("path", [DEPLOY / "examples" / "simulated" / "beamline.toml"], ids=str)
def test_the_examples_are_configurations_that_service_and_profile_take(path):
    config = read_config(path)
    stream = CdiStream(path, is_service_started=False)
    stream.close(0.0)
    assert config.documents.source == "process"


def test_secrets_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CDI_STREAM_DASHBOARD_TOKEN", "word")
    monkeypatch.setenv("CDI_STREAM_TILED_API_KEY", "")
    config = read(tmp_path, MINIMAL + '[dashboard]\nhost = "0.0.0.0"\n[publish]\ntiled_api_key = "in the file"\n')
    assert config.dashboard.token == "word"
    assert config.publish.tiled_api_key == "in the file", "an empty variable replaces nothing"
    monkeypatch.setenv("CDI_STREAM_TILED_API_KEY", "key")
    assert read(tmp_path, MINIMAL).publish.tiled_api_key == "key"


@pytest.mark.parametrize(
    ("line", "n_processes"),
    [("", 1), ("workers = 3", 3), ('engine = "dask"\nworkers = 3\nresources = {GPU = 1}', 1)],
    ids=["default", "local", "dask"],
)
def test_a_cluster_has_one_worker_process(tmp_path, line, n_processes):
    assert read(tmp_path, with_key("refine", line)).refine.processes == n_processes
