"""Units of systemd: loaded by systemd-analyze, never started."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdi_stream.config.secrets import SECRETS
from tests.deploy.conftest import DEPLOY

UNITS = sorted(path for path in (DEPLOY / "systemd").iterdir() if path.suffix in (".service", ".timer", ".target"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
PROGRAMS = ("cdi-stream", "tiled")
EXPOSURE = 20
"""Largest exposure in tenths, of 0 to 100: `systemd-analyze security` calls less than 20 well protected."""


@pytest.fixture
def root(tmp_path) -> Path:
    """A machine's folders with our units, the units of systemd, and something at the place of our programs."""
    etc, programs = tmp_path / "etc" / "systemd" / "system", tmp_path / "opt" / "cdi-stream" / "bin"
    for folder in (etc, programs, tmp_path / "usr" / "lib" / "systemd"):
        folder.mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    shutil.copytree("/lib/systemd/system", tmp_path / "usr" / "lib" / "systemd" / "system", symlinks=True)
    for unit in UNITS:
        shutil.copy(unit, etc)
    for name in PROGRAMS:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    return tmp_path


def verified(program, root, *units):
    call = [program("systemd-analyze"), "verify", f"--root={root}", "--man=no"]
    done = subprocess.run(
        [*call, *(str(root / "etc" / "systemd" / "system" / name) for name in units)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_systemd_takes_every_unit_without_a_word(program, note, root):
    assert verified(program, root, *(unit.name for unit in UNITS)) == ""
    drop_in = root / "etc" / "systemd" / "system" / "cdi-stream-serve.service.d"
    drop_in.mkdir()
    for name in ("gpu.conf", "group.conf"):
        shutil.copy(DEPLOY / "systemd" / name, drop_in)
    assert verified(program, root, "cdi-stream-serve.service") == ""
    note("units of systemd", "systemd-analyze verify, not started", is_own=True)


def test_systemd_would_tell_of_a_mistake(program, root):
    unit = root / "etc" / "systemd" / "system" / "cdi-stream-serve.service"
    unit.write_text(unit.read_text().replace("RestartSec=", "RestartSek="))
    assert "RestartSek" in verified(program, root, unit.name)
    (root / "opt" / "cdi-stream" / "bin" / "cdi-stream").chmod(0o644)
    assert "not executable" in verified(program, root, "cdi-stream-dashboard.service")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_every_service_is_well_protected(program, note, unit):
    call = [program("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", unit]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    level = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert level is not None
    note(f"protection of {unit.name}", f"systemd-analyze security: exposure {level[1]} of 10", is_own=True)


def test_user_folders_and_calendar(program, note, tmp_path):
    """The user and the folders are made in an empty machine's folder; the time of the backup is a time."""
    (tmp_path / "etc").mkdir()
    for name, kind in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        call = [program(name), f"--root={tmp_path}", *(["--create"] if kind == "tmpfiles" else [])]
        done = subprocess.run([*call, DEPLOY / "systemd" / f"{kind}.conf"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "cdi-stream:" in (tmp_path / "etc" / "passwd").read_text()
    assert (tmp_path / "etc" / "cdi-stream" / "keys").stat().st_mode & 0o777 == 0o700
    when = values_of(DEPLOY / "systemd" / "cdi-stream-backup.timer", "Timer")["oncalendar"]
    call = [program("systemd-analyze"), "calendar", when[0]]
    assert "Next elapse" in subprocess.run(call, capture_output=True, text=True, check=True).stdout
    note("sysusers.conf, tmpfiles.conf, the timer", "systemd-sysusers, systemd-tmpfiles, systemd-analyze", is_own=True)


def values_of(unit: Path, section: str) -> dict[str, list[str]]:
    """Keys of a unit; a key may come several times."""

    class Several(dict):
        def __setitem__(self, key, value):
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Several, delimiters=("=",))
    parser.read_string(unit.read_text())
    return {key: value.split("\n") for key, value in parser[section].items()}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_every_command_exists(unit):
    (command,) = values_of(unit, "Service")["execstart"]
    path, *arguments = shlex.split(command)
    name = Path(path).name
    assert name in PROGRAMS
    call = [Path(sys.executable).with_name(name), *arguments[: {"cdi-stream": 1, "tiled": 2}.get(name, 0)]]
    text = subprocess.run([*call, "--help"], capture_output=True, text=True, check=True).stdout
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in text, f"{name} has no {option}"


def test_the_file_of_secrets_names_the_variables_that_are_read():
    text = (DEPLOY / "systemd" / "cdi-stream.env").read_text()
    names = set(re.findall(r"^(\w+)=$", text, re.MULTILINE))
    assert names == {*SECRETS, "TILED_SINGLE_USER_API_KEY"}
