"""Sphinx extension: reference pages made from the code, so that they cannot fall behind.

A page holds a line ``<!-- from code: NAME -->``; the line is replaced by the text of the function of that name in
`MAKERS`.  One page for each room of the packages is written into ``reference/api``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import AfterValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from typer.models import ArgumentInfo, OptionInfo

from cdi_stream.cli import app as command_line
from cdi_stream.config.file import Config
from cdi_stream.config.section import Section
from cdi_stream.metrics import MEANINGS, UNITS
from cdi_stream.phasing.recipe import NAMED
from cdi_stream.registry import GROUPS

MARKER = re.compile(r"^<!-- from code: ([a-z ]+) -->$", re.M)
PACKAGES = ("cdi_stream", "cdi_stream_plugins", "sim_beamline")
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def configuration() -> str:
    """Return the reference of the configuration file: each table and each key."""
    top = {name: field for name, field in Config.model_fields.items() if _section_of(field) is None}
    parts = ["## Above all tables\n", *(_key(name, field) for name, field in top.items())]
    parts += [
        part for name, field in Config.model_fields.items() if name not in top for part in _table(name, _section(field))
    ]
    return "\n".join(parts)


def _table(name: str, section: type[Section]) -> list[str]:
    """Return heading, first paragraph and keys of one table, then the tables inside it."""
    inner = {key: found for key, field in section.model_fields.items() if (found := _section_of(field))}
    intro = inspect.cleandoc(section.__doc__ or "").replace("``", "`")
    lines = [f"## `[{name}]`\n", f"{intro}\n"]
    lines += [_key(key, field) for key, field in section.model_fields.items() if key not in inner]
    return lines + [line for key, found in inner.items() for line in _table(f"{name}.{key}", found)]


def _key(name: str, field: FieldInfo) -> str:
    assert field.description, f"the configuration's key {name} has no description"
    marks = [f"`{name}`", _kind(field.annotation, field.metadata), _default(field)]
    return f"{' · '.join(filter(None, marks))}\n: {field.description}\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value in ((), {}, ""):
        return "optional"
    if isinstance(value, Path):
        value = value.stem.replace("_", "-") if value.suffix == ".pt" else str(value)
    return f"default `{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int):
        return f"{value:_}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """Return in words which values a key takes, with range and unit."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], list(arguments[1:]))
    if origin in (Union, UnionType):
        return " or ".join(_kind(one, metadata) for one in arguments if one is not type(None))
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)}: {_kind(arguments[0], [])}"
    if origin in (tuple, list):
        return f"list of: {_kind(arguments[0], [])}"
    if origin is dict:
        return f"table of: {_kind(arguments[1], [])}"
    return PLAIN.get(annotation, "value") + _range(metadata)


def _range(metadata: list[Any]) -> str:
    for check in metadata:
        if isinstance(check, AfterValidator):
            bounds = inspect.getclosurevars(check.func).nonlocals
            if {"low", "high", "unit"} <= set(bounds):
                return f", {bounds['low']:g} to {bounds['high']:.4g} {bounds['unit'].partition(':')[0]}"
    return ""


def _section_of(field: FieldInfo) -> type[Section] | None:
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, Section)), None)


def _section(field: FieldInfo) -> type[Section]:
    found = _section_of(field)
    assert found is not None
    return found


def commands() -> str:
    """Return the reference of the command line: each command with its arguments and options."""
    return "\n".join(_commands(command_line, "cdi-stream"))


def _commands(app: typer.Typer, path: str) -> list[str]:
    lines: list[str] = []
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        lines += _command(command.callback, f"{path} {name}")
    for group in app.registered_groups:
        assert group.typer_instance is not None
        lines += _commands(group.typer_instance, f"{path} {group.name}")
    return lines


def _command(run: Callable[..., Any], path: str) -> list[str]:
    """Return heading, usage, arguments and options of one command, from the signature of its function."""
    hints = get_type_hints(run, include_extras=True)
    entries = [_Entry(one, *get_args(hints[name])[:2]) for name, one in inspect.signature(run).parameters.items()]
    arguments = [one for one in entries if one.is_argument]
    usage = " ".join((path, *(one.names for one in arguments), "[OPTIONS]" if len(arguments) < len(entries) else ""))
    lines = [f"## {path.removeprefix('cdi-stream ')}\n", f"{inspect.getdoc(run)}\n", f"```text\n{usage.strip()}\n```\n"]
    return lines + [one.written() for one in sorted(entries, key=lambda one: not one.is_argument)]


@dataclass(frozen=True)
class _Entry:
    """One argument or option: the parameter of the function, its type, and what typer is told of it."""

    parameter: inspect.Parameter
    kind: Any
    info: ArgumentInfo | OptionInfo

    @property
    def is_argument(self) -> bool:
        return isinstance(self.info, ArgumentInfo)

    @property
    def names(self) -> str:
        name = self.parameter.name
        if self.is_argument:
            return name.upper()
        first = self.info.default  # where typer keeps the first name of an option in Annotated
        names = [*([first] if isinstance(first, str) else []), *(self.info.param_decls or ())]
        return ", ".join(names) or f"--{name.replace('_', '-')}"

    def written(self) -> str:
        """Return the entry of a definition list."""
        default = self.parameter.default
        marks = [f"`{self.names}`"] + ([] if self._kind == PLAIN[bool] else [self._kind])
        if default is inspect.Parameter.empty:
            marks.append("**required**")
        elif default is not None and not isinstance(default, bool):
            marks.append(f"default `{getattr(default, 'value', default)}`")
        return f"{' · '.join(marks)}\n: {self.info.help or ''}\n"

    @property
    def _kind(self) -> str:
        """Return in words which values it takes."""
        kind = next((one for one in (*get_args(self.kind), self.kind) if one is not type(None)), str)
        if inspect.isclass(kind) and issubclass(kind, Enum):
            return " or ".join(f"`{one.value}`" for one in kind)
        return ("several: " if get_origin(kind) is list or kind is list else "") + PLAIN.get(kind, "text")


def metrics() -> str:
    """Return the table of all numbers that are published with a crystal."""
    lines = ["| name | unit | meaning |", "|---|---|---|"]
    rows = (f"| `{name}` | {UNITS[name]} | {meaning} |" for name, meaning in MEANINGS.items())
    return "\n".join((*lines, *rows))


def recipes() -> str:
    """Return the recipes by name."""
    return "\n".join(("| name | recipe |", "|---|---|", *(f"| `{name}` | `{text}` |" for name, text in NAMED.items())))


def plugins() -> str:
    """Return the table of plugins that come with the package."""
    lines = ["| group | plugins |", "|---|---|"]
    for group in GROUPS:
        names = sorted(
            {p.name for p in entry_points(group=group) if p.dist is not None and p.dist.name == "cdi-stream"}
        )
        lines.append(f"| `{group}` | {', '.join(f'`{name}`' for name in names)} |")
    return "\n".join(lines)


MAKERS = {
    "configuration": configuration,
    "commands": commands,
    "metrics": metrics,
    "recipes": recipes,
    "plugins": plugins,
}


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each marker of a page by the text that is made from the code."""
    source[0] = MARKER.sub(lambda match: app.env.from_code[match[1]], source[0])


def make_texts(app: Sphinx) -> None:
    """Make all texts before autodoc, which changes the signatures of functions, reads the packages."""
    app.env.from_code = {name: make() for name, make in MAKERS.items()}


def write_api_pages(app: Sphinx) -> None:
    """Write one page for each room of the packages, and remove the pages of rooms that are gone."""
    folder = Path(app.srcdir) / "reference" / "api"
    pages = {name: text for package in PACKAGES for name, text in _pages(importlib.import_module(package))}
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _pages(package: ModuleType) -> list[tuple[str, str]]:
    """Return name and text of the page of each room; loose modules of a package share its own page."""
    rooms: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.endswith("__main__"):
            continue
        importlib.import_module(module.name)  # now: autodoc would import it with typing.TYPE_CHECKING switched on
        parts = module.name.split(".")
        is_room = module.ispkg or len(parts) > 2
        room = ".".join(parts[:2]) if is_room else package.__name__
        rooms.setdefault(room, [] if room != package.__name__ else [package.__name__]).append(module.name)
    return [(room, _page(room, names)) for room, names in sorted(rooms.items())]


def _page(room: str, names: list[str]) -> str:
    parts = [f"# `{room}`\n"]
    for name in names:
        if name != room:
            parts.append(f"## `{name}`\n")
        parts.append(f"```{{eval-rst}}\n.. automodule:: {name}\n   :ignore-module-all:\n```\n")
    return "\n".join(parts)


def escape_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the plain text of a docstring into reStructuredText that shows it as it is written.

    Bars and stars, as in ``|F|^2``, are no markup; a paragraph in columns keeps them.
    """
    paragraphs = "\n".join(lines).split("\n\n")
    was_announced = False
    for k, text in enumerate(paragraphs):
        is_code = ">>>" in text or (was_announced and text.startswith(" "))
        was_announced = is_code or text.rstrip().endswith("::")
        if is_code:
            continue
        if COLUMNS.search(text):
            paragraphs[k] = "::\n\n" + re.sub("^", "    ", text.replace("``", ""), flags=re.M)
        else:
            parts = [part if part.startswith("`") else _escaped(part) for part in LITERAL.split(text)]
            paragraphs[k] = re.sub(r"`(?=\0[\w^])|(?<=\w)\0(?=`)", r"\g<0>\\ ", "\0".join(parts)).replace("\0", "")
    lines[:] = "\n\n".join(paragraphs).split("\n")
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")  # napoleon takes the words before a colon in the first line for a type


LITERAL = re.compile(r"(``.+?``|`[^`]+?`)", re.S)
"""Text in backticks."""

COLUMNS = re.compile(r"^\s*\S.* {4,}\S", re.M)
"""A line in columns, set apart by four blanks and more."""


def _escaped(text: str) -> str:
    text = re.sub(r"(?<!\w)(\*\w+\*)(?!\w)|(?<=.)\*|\*(?! )", lambda match: match[1] or r"\*", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text.replace("|", r"\|"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("builder-inited", make_texts)
    app.connect("builder-inited", write_api_pages)
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon makes its markup
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
