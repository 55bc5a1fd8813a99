"""The shape of the tree, held by a machine: directions of imports, sizes, docstrings."""

from __future__ import annotations

import ast
from collections import Counter
from itertools import chain
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "cdi_stream": ROOT / "cdi_stream",
    "cdi_stream_plugins": ROOT / "plugins" / "cdi_stream_plugins",
    "sim_beamline": ROOT / "sim_beamline",
}
LAYERS = (
    ("__main__",),
    ("cli",),
    ("live", "replay", "training", "interface"),
    ("refine", "assemble", "operators"),
    ("documents", "stream"),
    ("files",),
    ("inversion",),
    ("config",),
    ("phasing", "networks", "physics", "protocols"),
    ("messages",),
    ("geometry",),
    ("numerics", "disk", "metrics", "alarms", "logs", "addresses", "processes", "registry"),
    ("errors",),
)
"""Rooms of the package from the top to the bottom; a room imports only from rooms below, never from its neighbours."""

SOCKETS = {
    "cdi_stream": {"assemble", "documents", "live", "operators", "refine", "replay", "stream"},
    "cdi_stream_plugins": {"bluesky", "sinks", "sources"},
    "sim_beamline": {"detector", "devices", "frame_buffer", "frame_stream", "plans", "station"},
}
"""Rooms that may import zmq: those that speak to other processes; all others are tested without sockets."""

BROAD_EXCEPTS = {
    "cdi_stream.assemble": 1,
    "cdi_stream.disk": 1,
    "cdi_stream.documents": 8,
    "cdi_stream.inversion": 1,
    "cdi_stream.live": 5,
    "cdi_stream.numerics": 1,
    "cdi_stream.phasing": 1,
    "cdi_stream.refine": 3,
    "cdi_stream.registry": 1,
    "cdi_stream_plugins.bluesky": 2,
}
"""Largest number of handlers of `Exception` or `BaseException` in a room: borders of threads, processes and plugins."""

MAX_ANY = 383
"""Largest number of annotations with `Any` in the tree, counted on 28 November 2026: the number may only fall."""

MAX_FILE_LINES = 400
MAX_MEDIAN_FILE_LINES = 150
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 10

STAGES = {"locate", "prepare", "correct", "infer", "phase_retrieval", "describe"}
"""Steps from a curve to a crystal: each takes and gives messages; `inversion.chain` alone knows them all."""


def source_texts() -> dict[str, str]:
    """Text of each module's file, by the module's full name."""
    texts = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            name = ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
            texts[name] = path.read_text()
    return texts


SOURCES = source_texts()
MODULES = {name: ast.parse(text) for name, text in SOURCES.items()}


def imported_names(tree: ast.Module) -> set[str]:
    """Full names of all modules, and of what is taken from them, that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imports(tree: ast.Module) -> set[str]:
    """Modules of the project that a module imports, at its top or inside a function."""
    return imported_names(tree) & MODULES.keys()


GRAPH = {name: imports(tree) - {name} for name, tree in MODULES.items()}


def test_every_imported_module_of_the_project_exists():
    """Also inside functions, where an import fails only when a user gets there."""
    absent = {
        f"{name} imports {node.module}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.split(".")[0] in PACKAGES and node.module not in MODULES
    }
    assert not absent


def test_the_core_knows_neither_plugins_nor_the_simulated_beamline():
    for name, imported in GRAPH.items():
        if name.split(".")[0] == "cdi_stream":
            assert not [other for other in imported if other.split(".")[0] != "cdi_stream"], name


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def test_every_room_is_in_a_layer():
    declared = [name for layer in LAYERS for name in layer]
    assert sorted(declared) == sorted({room(name) for name in GRAPH if name.startswith("cdi_stream.")})


def test_rooms_import_only_from_rooms_below():
    height = {name: level for level, layer in enumerate(LAYERS) for name in layer}
    upwards = [
        f"{name} imports {other}"
        for name, imported in GRAPH.items()
        for other in imported
        if name.startswith("cdi_stream.") and other.startswith("cdi_stream.") and room(other) != room(name)
        if height[room(other)] <= height[room(name)]
    ]
    assert not upwards, "\n".join(upwards)


def test_stages_never_import_one_another():
    for stage in STAGES:
        imported = {
            other.rsplit(".", 1)[-1] for other in GRAPH[f"cdi_stream.inversion.{stage}"] if ".inversion." in other
        }
        assert not imported & {*STAGES, "chain", "methods"}, f"{stage} imports {imported}"


def test_the_simulated_beamline_uses_only_the_neutral_parts_of_the_core():
    allowed = {
        "cdi_stream",
        "cdi_stream.errors",
        "cdi_stream.messages",
        "cdi_stream.files.recording",
        "cdi_stream.files",
        "cdi_stream.files.result_file",
    }
    allowed |= {"cdi_stream.documents", "cdi_stream.documents.bus"}
    for name, imported in GRAPH.items():
        if name.startswith("sim_beamline"):
            core = {other for other in imported if other.split(".")[0].startswith("cdi_stream")}
            assert core <= allowed, f"{name} imports {core - allowed}"


def test_no_cycles():
    graph = GRAPH | {"cdi_stream": {"cdi_stream.errors"}}  # the root imports its other names when they are used
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_root_imports_only_errors_before_its_names_are_used():
    tree = MODULES["cdi_stream"]
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in at_once} == {"__future__", "importlib", "typing", "cdi_stream.errors"}


def test_only_rooms_that_speak_to_other_processes_import_zmq():
    strangers = [
        name
        for name, tree in MODULES.items()
        if any(imported.split(".")[0] == "zmq" for imported in imported_names(tree))
        and room(name) not in SOCKETS[name.split(".")[0]]
    ]
    assert not strangers


def test_torch_script_and_event_model_stay_in_their_places():
    homes = {
        "torch.jit": {"cdi_stream.networks.torchscript", "cdi_stream.networks.archive"},
        "event_model": {"cdi_stream.documents.publish", "cdi_stream.documents.runs"},
    }
    for name, tree in MODULES.items():
        text = ast.unparse(tree)
        for word, allowed in homes.items():
            assert word not in text or name in allowed, f"{name} uses {word}"


def functions(tree: ast.AST):
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_files_and_functions_stay_small():
    lengths = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    long = [f"{name}: {n}" for name, n in lengths.items() if n > MAX_FILE_LINES]
    assert not long
    assert median(lengths.values()) <= MAX_MEDIAN_FILE_LINES
    sizes = [
        (node.end_lineno - node.lineno + 1 - docstring_lines(node), f"{name}.{node.name}")
        for name, tree in MODULES.items()
        for node in functions(tree)
    ]
    assert not [f"{name}: {n}" for n, name in sizes if n > MAX_FUNCTION_LINES]
    assert median(n for n, _ in sizes) <= MAX_MEDIAN_FUNCTION_LINES


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's docstring, which may be as long as it needs to be."""
    if ast.get_docstring(node) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def test_handlers_of_every_exception_are_few_and_declared():
    counts = Counter(
        ".".join(name.split(".")[:2])
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    )
    assert not {place: n for place, n in counts.items() if n > BROAD_EXCEPTS.get(place, 0)}


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every exception."""
    if handler.type is None:
        return True
    return bool(
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} & {"Exception", "BaseException"}
    )


def test_annotations_that_allow_anything_become_fewer():
    counts = {
        name: sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
        for name, tree in MODULES.items()
    }
    assert sum(counts.values()) <= MAX_ANY


def test_every_public_name_has_a_docstring():
    silent = []
    for name, tree in MODULES.items():
        if ast.get_docstring(tree) is None:
            silent.append(name)
        for node in ast.walk(tree):
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            is_named = isinstance(node, kinds) and not node.name.startswith("_")
            if is_named and ast.get_docstring(node) is None and not is_nested(node, tree):
                silent.append(f"{name}.{node.name}")
    assert not silent


def is_nested(node: ast.AST, tree: ast.Module) -> bool:
    """Whether a function or class is defined inside a function: private by its place."""
    inner = chain.from_iterable(ast.walk(child) for outer in functions(tree) for child in outer.body)
    return any(other is node for other in inner)


def test_no_module_is_a_drawer():
    drawers = {"utils", "helpers", "common", "manager", "handler", "misc"}
    assert not [name for name in MODULES if name.rsplit(".", 1)[-1] in drawers]
