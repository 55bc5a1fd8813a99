"""The names of ``import cdi_stream``: quick to import, there in any order of imports, with their types and examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import cdi_stream
import cdi_stream.interface

ROOT = Path(cdi_stream.__file__).parent
SUBMODULES = sorted(module.name for module in pkgutil.iter_modules([str(ROOT)]) if module.name != "__main__")
FUNCTIONS = {"load_result", "phase", "progress_bar", "read", "reconstruct", "rocking_curve"}


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_takes_less_than_a_second_and_brings_neither_torch_nor_bluesky():
    code = (
        "import sys, time; begin = time.monotonic(); import cdi_stream as cdi; took = time.monotonic() - begin; "
        "heavy = {'torch', 'bluesky', 'numpy', 'scipy', 'numba', 'h5py', 'matplotlib', 'pydantic'} & set(sys.modules); "
        "print(took < 1, sorted(heavy), cdi.CdiStreamError.__name__)"
    )
    assert in_a_new_process(code) == "True [] CdiStreamError"


def test_what_needs_no_torch_brings_none():
    code = (
        "import sys, cdi_stream as cdi; cdi.Beamline, cdi.Metrics, cdi.Verdict, cdi.RockingCurve, cdi.AffineMap, "
        "cdi.progress_bar(); dir(cdi); print(sorted({'torch', 'bluesky'} & set(sys.modules)))"
    )
    assert in_a_new_process(code) == "[]"


@pytest.mark.parametrize("are_submodules_first", [True, False])
def test_no_submodule_hides_a_public_name(are_submodules_first):
    """Importing a submodule binds its name in the package: it must never be that of a public name."""
    names = f"names = {{name: getattr(cdi, name) for name in {sorted(cdi_stream.__all__)}}}"
    modules = f"[importlib.import_module('cdi_stream.' + name) for name in {SUBMODULES}]"
    first, second = (modules, names) if are_submodules_first else (names, modules)
    code = "\n".join(
        (
            "import importlib, types, cdi_stream as cdi",
            first,
            second,
            "assert all(getattr(cdi, name) is value for name, value in names.items())",
            "print(sorted(name for name, value in names.items() if isinstance(value, types.ModuleType)))",
        )
    )
    assert in_a_new_process(code) == "[]"
    assert not set(SUBMODULES) & set(cdi_stream.__all__)


def test_every_public_name_is_there_listed_and_documented():
    assert cdi_stream.__all__ == sorted(cdi_stream.__all__)
    assert set(cdi_stream.__all__) >= FUNCTIONS | {"Beamline", "CdiStreamError", "Reconstruction", "Metrics"}
    for name in cdi_stream.__all__:
        assert getattr(cdi_stream, name).__doc__, name
        assert name in dir(cdi_stream)
    assert {name for name in cdi_stream.__all__ if callable(getattr(cdi_stream, name)) and name.islower()} == FUNCTIONS


def test_all_errors_are_public_and_of_one_root():
    from cdi_stream import errors

    ours = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert ours <= set(cdi_stream.__all__)
    assert all(issubclass(getattr(cdi_stream, name), cdi_stream.CdiStreamError) for name in ours)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fase'"):
        cdi_stream.fase  # noqa: B018
    with pytest.raises(ImportError, match="fase"):
        from cdi_stream import fase  # noqa: F401


def test_type_checkers_see_the_names_that_python_imports():
    assert (ROOT / "py.typed").is_file()
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    homes = {name: f"cdi_stream.{module}" for name, module in cdi_stream._HOMES.items()}
    assert seen == homes


MODULES_WITH_EXAMPLES = sorted(
    f"cdi_stream.interface.{module.name}"
    for module in pkgutil.iter_modules(cdi_stream.interface.__path__)
    if ">>>" in (ROOT / "interface" / f"{module.name}.py").read_text()
)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples_of_the_functions():
    assert {"from_counts", "from_curve", "from_file"} <= {name.rsplit(".", 1)[1] for name in MODULES_WITH_EXAMPLES}
