"""The shape of the tree, held by a machine: directions of imports, sizes, docstrings."""

from __future__ import annotations

import ast
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
    ("numerics", "disk", "metrics", "alarms", "addresses", "processes", "registry"),
    ("errors",),
)
"""Rooms of the package from the top to the bottom; a room imports only from rooms below, never from its neighbours."""

STAGES = {"locate", "prepare", "correct", "infer", "phase_retrieval", "describe"}
"""Steps from a curve to a crystal: each takes and gives messages; `inversion.chain` alone knows them all."""


def modules() -> dict[str, ast.Module]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            name = ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(tree: ast.Module) -> set[str]:
    """Modules of ours that a module imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in MODULES}


GRAPH = {name: imports(tree) - {name} for name, tree in MODULES.items()}


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


def test_torch_script_zmq_and_event_model_stay_in_their_places():
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
    lengths = {name: len(ast.unparse(tree).splitlines()) for name, tree in MODULES.items()}
    assert median(lengths.values()) <= 150
    assert max(lengths.values()) <= 400, max(lengths, key=lengths.__getitem__)
    sizes = sorted(node.end_lineno - node.lineno + 1 for node in chain.from_iterable(map(functions, MODULES.values())))
    assert median(sizes) <= 10
    assert sizes[-1] <= 60


def test_every_public_name_has_a_docstring():
    silent = []
    for name, tree in MODULES.items():
        if ast.get_docstring(tree) is None:
            silent.append(name)
        for node in ast.walk(tree):
            is_named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
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
