"""Open and check the archive inside a network file without running its code.

TorchScript is a zip archive: weights as raw bytes, code in Python's syntax, and the tree of modules as a pickle that
torch reads with its own reader.  `check_members` refuses a file with more than a network needs
(`cdi_stream.networks.operators`).  It returns a new archive of the checked members alone; torch loads that archive.
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
"""Largest size of an unpacked archive [bytes]: a thousand times the packaged networks, a small part of a memory."""

MAX_MEMBERS = 20_000
"""Largest number of members of an archive."""

MAX_CODE_BYTES = 4 << 20
"""Largest size of the code, and of the pickles, in a file [bytes]; the packaged networks have 0.2 MB of each."""

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
    """Return the members of a network file by name, without the name of the archive's top folder.

    Parameters
    ----------
    data
        Bytes of the file.
    source
        Name of the file, for error messages.

    Raises
    ------
    NetworkFileError
        If the file is not a TorchScript archive, or is larger than the limits when unpacked.
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
        raise NetworkFileError(
            f"{source}: expected one folder with one member of each name in the archive, got more; "
            "save the network again"
        )
    if "data.pkl" not in inside or not {"version", ".data/version"} & inside.keys():
        raise NetworkFileError(
            f"{source}: expected TorchScript, got an archive without data.pkl; save the network by torch.jit.save"
        )
    return inside


def _require_limits(entries: list[ZipInfo], source: str) -> None:
    """Raise an error if the sizes that the archive states exceed the limits; zipfile unpacks no more than these."""
    total = sum(entry.file_size for entry in entries)
    texts = sum(entry.file_size for entry in entries if entry.filename.endswith((".py", ".pkl", ".json")))
    if len(entries) > MAX_MEMBERS or total > MAX_BYTES or texts > 2 * MAX_CODE_BYTES:
        raise NetworkFileError(
            f"{source}: expected at most {MAX_MEMBERS} members, {MAX_BYTES >> 20} MiB unpacked and "
            f"{MAX_CODE_BYTES >> 19} MiB of code, got {len(entries)}, {total >> 20} MiB and {texts >> 20} MiB; "
            "take a smaller network"
        )


def check_members(inside: Mapping[str, bytes], source: str, is_operator: Callable[[str], bool]) -> bytes:
    """Return an archive for torch with the members of a network file, after a check of names, code and pickles.

    Parameters
    ----------
    inside
        Members as `members` returns them.
    source
        Name of the file, for error messages.
    is_operator
        Returns whether torch has an operator of a given name.

    Raises
    ------
    NetworkFileError
        If there is a member, an operator or a pickled object that is not on the lists; the message names them.
    """
    problems = {f"member {name!r}" for name in inside if not _MEMBER.fullmatch(name)}
    code = {name: text for name, text in inside.items() if name.endswith(".py")}
    trees = {name.removeprefix("code/").removesuffix(".py").replace("/", "."): _tree(code[name]) for name in code}
    problems |= {f"code that is no plain Python in {module}" for module, tree in trees.items() if tree is None}
    defined = {name for module, tree in trees.items() if tree for name in defined_names(tree, module)}
    for tree in filter(None, trees.values()):
        problems |= forbidden(tree, defined, is_operator)
    for name in ("data.pkl", "constants.pkl"):
        problems |= _foreign_pickles(inside.get(name, b"N."), defined)
    if problems:
        raise NetworkFileError(
            f"{source}: refused, nothing in it was run: expected only what a network needs to compute, got "
            f"{', '.join(sorted(problems)[:12])}{', ...' if len(problems) > 12 else ''}; {_REMEDY}"
        )
    return pack_members({name: text for name, text in inside.items() if _is_needed(name)})


def _is_needed(name: str) -> bool:
    """Return whether torch needs a member to run the network; debug information and example inputs are not needed."""
    return not name.endswith(".debug_pkl") and not name.startswith("traced_inputs")


def pack_members(inside: Mapping[str, bytes]) -> bytes:
    """Return members as the bytes of an archive that torch can load."""
    data = io.BytesIO()
    with ZipFile(data, "w") as archive:
        for name, content in inside.items():
            archive.writestr(f"network/{name}", content)
    return data.getvalue()


def _tree(code: bytes) -> ast.Module | None:
    """Return the syntax tree of a module; None for text that Python and TorchScript may read differently."""
    try:
        text = code.decode("ascii")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        is_plain = all(letter.isprintable() or letter == "\n" for letter in text) and all(map(_is_plain, tokens))
        return ast.parse(text) if is_plain else None
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None


def _is_plain(token: tokenize.TokenInfo) -> bool:
    """Return whether a token is not a comment, and not a string in a form that TorchScript never writes."""
    if token.type == tokenize.STRING:
        return _TEXT.fullmatch(token.string) is not None
    return token.type != tokenize.COMMENT


def _foreign_pickles(data: bytes, defined: set[str]) -> set[str]:
    """Return the classes and functions that a pickle needs beyond tensors and the file's own, without loading it."""
    foreign = set()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                foreign.add(f"pickled {opcode.name}")
            name = str(argument)
            is_known = _PICKLED.fullmatch(name) or name.replace(" ", ".") in defined
            if opcode.name == "GLOBAL" and not is_known:
                foreign.add(f"pickled {name}")
    except (ValueError, IndexError, EOFError) as error:
        foreign.add(f"a broken pickle ({error})")
    return foreign
