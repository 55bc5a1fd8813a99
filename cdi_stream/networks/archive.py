"""The archive inside a network file: opened, measured and checked without running anything of it.

TorchScript is a zip: weights as raw bytes, code in Python's syntax, and the tree of modules as a pickle that torch
reads with a reader of its own.  `checked` names whatever is more than a network needs, see
`cdi_stream.networks.operators`, and returns the archive written anew from the checked members alone, so that what
torch loads is what was checked.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import tokenize
from collections.abc import Callable, Mapping
from zipfile import BadZipFile, ZipFile, ZipInfo

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks.operators import defined_names, forbidden

MAX_BYTES = 2 << 30
"""Largest unpacked archive [bytes]: a thousand times the package's own networks, and an eighth of a workstation's
memory."""

MAX_MEMBERS = 20_000
MAX_CODE_BYTES = 4 << 20
"""Most code and most pickle in a file [bytes]; the package's networks have 0.2 MB of each."""

_MEMBER = re.compile(
    r"version|byteorder|\.format_version|\.storage_alignment|\.data/(version|serialization_id)|data\.pkl|constants\.pkl"
    r"|(data|constants)/\d+|extra/.+|traced_inputs(\.pkl|/\d+)|code/__torch__(/\w+)*\.py(\.debug_pkl)?"
)
_PICKLED = re.compile(
    r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage"
    r"|torch\.jit\._pickle (build_(int|tensor|double|bool|complex)list|restore_type_tag)"
)
_TEXT = re.compile(r'"([^"\\]|\\[\\"\'nt])*"')
_REMEDY = "take networks only from people whom you would let run a program here"


def members(data: bytes, source: str) -> dict[str, bytes]:
    """Unpack a network file; returns its members by name, without the folder around them.

    Raises
    ------
    NetworkFileError
        If the file is no such archive, or larger than the limits when unpacked.
    """
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _require_limits(entries, source)
            inside = {entry.filename.partition("/")[2]: archive.read(entry) for entry in entries}
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise NetworkFileError(
            f"{source}: expected a network file in TorchScript, which is a zip archive, got something else ({error}); "
            "write one with 'cdi-stream train' or 'cdi-stream export'"
        ) from error
    if len(inside) < len(entries) or len({entry.filename.partition("/")[0] for entry in entries}) != 1:
        raise NetworkFileError(f"{source}: expected one folder with one member of each name in the archive, got more")
    if "data.pkl" not in inside or not {"version", ".data/version"} & inside.keys():
        raise NetworkFileError(f"{source}: expected TorchScript (torch.jit.save), got an archive without data.pkl")
    return inside


def _require_limits(entries: list[ZipInfo], source: str) -> None:
    """Refuse by the sizes that the archive states; zipfile unpacks no more than those."""
    total = sum(entry.file_size for entry in entries)
    texts = sum(entry.file_size for entry in entries if entry.filename.endswith((".py", ".pkl", ".json")))
    if len(entries) > MAX_MEMBERS or total > MAX_BYTES or texts > 2 * MAX_CODE_BYTES:
        raise NetworkFileError(
            f"{source}: expected at most {MAX_MEMBERS} members, {MAX_BYTES >> 20} MiB unpacked and "
            f"{MAX_CODE_BYTES >> 19} MiB of code, got {len(entries)}, {total >> 20} MiB and {texts >> 20} MiB"
        )


def checked(inside: Mapping[str, bytes], source: str, is_operator: Callable[[str], bool]) -> bytes:
    """Check the members of a network file and return them as an archive for torch.

    Parameters
    ----------
    inside
        Members as `members` returns them.
    source
        Name of the file, for errors.
    is_operator
        Whether torch has an operator of this name.

    Raises
    ------
    NetworkFileError
        If there is a member, an operator or a pickled object off the lists; all are named.
    """
    found = {f"member {name!r}" for name in inside if not _MEMBER.fullmatch(name)}
    code = {name: text for name, text in inside.items() if name.endswith(".py")}
    trees = {name.removeprefix("code/").removesuffix(".py").replace("/", "."): _tree(code[name]) for name in code}
    found |= {f"code that is no plain Python in {module}" for module, tree in trees.items() if tree is None}
    defined = {name for module, tree in trees.items() if tree for name in defined_names(tree, module)}
    for tree in filter(None, trees.values()):
        found |= forbidden(tree, defined, is_operator)
    for name in ("data.pkl", "constants.pkl"):
        found |= _pickled(inside.get(name, b"N."), defined)
    if found:
        raise NetworkFileError(
            f"{source}: refused, nothing in it was run: expected only what a network needs to compute, got "
            f"{', '.join(sorted(found)[:12])}{', ...' if len(found) > 12 else ''}; {_REMEDY}"
        )
    return packed({name: text for name, text in inside.items() if _is_needed(name)})


def _is_needed(name: str) -> bool:
    """Whether torch needs a member to run the network: places in the source and examples of inputs are left out."""
    return not name.endswith(".debug_pkl") and not name.startswith("traced_inputs")


def packed(inside: Mapping[str, bytes]) -> bytes:
    """Return members as the bytes of an archive that torch loads."""
    data = io.BytesIO()
    with ZipFile(data, "w") as archive:
        for name, content in inside.items():
            archive.writestr(f"network/{name}", content)
    return data.getvalue()


def _tree(code: bytes) -> ast.Module | None:
    """Syntax tree of a module; None for text that Python and TorchScript might read in two ways."""
    try:
        text = code.decode("ascii")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        is_plain = all(letter.isprintable() or letter == "\n" for letter in text) and all(map(_is_plain, tokens))
        return ast.parse(text) if is_plain else None
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None


def _is_plain(token: tokenize.TokenInfo) -> bool:
    """Whether a token is no comment, and no text in a form that TorchScript does not write itself."""
    if token.type == tokenize.STRING:
        return _TEXT.fullmatch(token.string) is not None
    return token.type != tokenize.COMMENT


def _pickled(data: bytes, defined: set[str]) -> set[str]:
    """Classes and functions that a pickle asks for beyond those of tensors and of the file itself; it is not loaded."""
    found = set()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                found.add(f"pickled {opcode.name}")
            name = str(argument)
            is_known = _PICKLED.fullmatch(name) or name.replace(" ", ".") in defined
            if opcode.name == "GLOBAL" and not is_known:
                found.add(f"pickled {name}")
    except (ValueError, IndexError, EOFError) as error:
        found.add(f"a broken pickle ({error})")
    return found
