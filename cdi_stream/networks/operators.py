"""Operators that a network file may use, and the check of its code against this list.

A TorchScript file holds code in Python's syntax; some of its operators read and write files (``torch.from_file``,
``torch.save``).  `forbidden` reads the code as a syntax tree, without running it, and returns everything that is not
known to be harmless: operators off the list, statements that a network does not need (``while``, ``import``), methods
that run while the file is loaded (``__setstate__``), and changes of the network's own attributes.  No operator on the
list turns values of a tensor into a shape; only ``Bool``, ``Float`` and ``Int`` turn values into a number, and the
loading of the file checks their use (`cdi_stream.networks.torchscript`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Set

_TORCH = """
__and__ __contains__ __derive_index __getitem__ __is__ __isnot__ __not__ __or__ __range_length __xor__ append extend
format len list

abs add add_ addcdiv addcmul addcmul_ amax amin angle argmax argmin atan2 ceil clamp clamp_ clamp_max clamp_max_
clamp_min clamp_min_ complex conj cos cosh cumsum deg2rad diff div div_ eq erf exp exp_ expm1 floor floor_divide
floordiv fmod
frac ge gt hypot imag isfinite isinf isnan le lerp log log10 log1p log2 logical_and logical_not logical_or logical_xor
logsumexp lt max maximum mean median min minimum mul mul_ ne neg norm polar pow prod real reciprocal remainder round
rsqrt rsqrt_ sgn sign sin sinc sinh sqrt square std sub sub_ sum tan tanh tanh_ true_divide trunc var var_mean
view_as_complex view_as_real where

broadcast_tensors cat chunk clone contiguous copy_ detach diagonal dim empty_like expand expand_as eye fill_ flatten
flip full full_like gather index_put_ index_select linspace meshgrid movedim narrow new_full new_ones new_zeros numel
ones ones_like pad permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape roll select size slice split
split_with_sizes squeeze stack swapaxes t tensor_split tile to transpose tril triu type_as unbind unflatten unfold
unsqueeze view view_as zero_ zeros zeros_like arange

fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2
fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn

Bool Float Int all any is_autocast_enabled is_complex is_floating_point is_grad_enabled masked_fill masked_fill_
squeeze_ unsqueeze_ warn

_convolution _native_multi_head_attention adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d addmm alpha_dropout avg_pool1d avg_pool2d avg_pool3d
baddbmm batch_norm bmm celu constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
dot dropout dropout_ einsum elu elu_ feature_dropout feature_dropout_ gelu glu group_norm hardsigmoid hardswish
hardtanh hardtanh_ instance_norm layer_norm leaky_relu leaky_relu_ linear log_sigmoid log_softmax matmul max_pool1d
max_pool2d max_pool3d mish mm outer prelu relu relu6 relu_ scaled_dot_product_attention selu sigmoid sigmoid_ silu
silu_ softmax softplus softshrink threshold

_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d grid_sampler grid_sampler_2d grid_sampler_3d reflection_pad1d
reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
OPERATORS = frozenset(_TORCH.split())
"""Names after ``torch.`` of operators that compute from their arguments alone.

They use no file, device, process, clock or random number; dropout does nothing in evaluation mode.
"""

_ATTRIBUTES = frozenset({"embedding", "gru", "items", "keys", "lstm", "values"})
"""Harmless operators off the list; parts of networks often have their names."""

_PRIM = frozenset(
    {"NumToTensor", "RaiseException", "TupleIndex", "TupleUnpack", "device", "dtype", "is_cpu", "is_cuda", "is_nested"}
    | {"layout", "max", "min", "requires_grad", "type"}
)
_DOTTED = {f"torch.{name}" for name in OPERATORS} | {f"ops.prim.{name}" for name in _PRIM}
_FUNCTIONS = frozenset({"annotate", "float", "getattr", "int", "range", "unchecked_cast", "uninitialized"})
_TYPES = frozenset(
    {"Any", "Device", "Dict", "Final", "List", "Module", "NoneType", "Optional", "Tensor", "Tuple"}
    | {"bool", "complex", "float", "int", "number", "str"}
)
_CONSTANTS = frozenset({"CONSTANTS", "inf", "nan"})
_ROOTS = frozenset({"torch", "ops", "__torch__"})
_ON_CALL = frozenset({"__len__", "__contains__"})
"""Special methods of a container of layers that run only where the code calls them."""
_LISTS = frozenset({"__annotations__", "__buffers__", "__parameters__"})
_STATEMENTS = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg),
    *(ast.Assign, ast.AnnAssign, ast.Expr, ast.If, ast.For, ast.Return, ast.Pass),
)
_EXPRESSIONS = (
    *(ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.keyword, ast.Subscript, ast.Slice, ast.Tuple, ast.List),
    *(ast.Dict, ast.UnaryOp, ast.BinOp, ast.Compare, ast.BoolOp, ast.IfExp),
    *(ast.expr_context, ast.unaryop, ast.operator, ast.cmpop, ast.boolop),
)


def defined_names(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield the full names of the classes and functions that a module of a network file defines."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield f"{module}.{node.name}"


def forbidden(tree: ast.Module, defined: Set[str], is_operator: Callable[[str], bool]) -> set[str]:
    """Return all items of a module of a network file that are not allowed, each as a few words for people.

    Parameters
    ----------
    tree
        Syntax tree of the module.
    defined
        Full names of all classes and functions in the file, see `defined_names`.
    is_operator
        Returns whether torch has an operator of a given name, which a method call may mean.
    """
    items: set[str] = set()
    inside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
            items.add(f"{type(node).__name__.lower()} (line {getattr(node, 'lineno', '?')})")
        items.update(_in_definition(node))
        if isinstance(node, ast.Attribute) and not (id(node) in inside and _root(node) in _ROOTS):
            items.update(_in_attribute(node, defined, is_operator))
        if isinstance(node, ast.Call):
            items.update(_in_call(node, is_operator))
    return items | set(_in_names(tree))


def _in_definition(node: ast.AST) -> Iterator[str]:
    """Yield special methods, decorators, foreign base classes, and changes of attributes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        is_automatic = node.name.startswith("__") and node.name not in _ON_CALL
        yield from [node.name] * (is_automatic or bool(node.decorator_list))
    if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in (*node.bases, *node.keywords)] != ["Module"]:
        yield f"class {node.name} that is no Module"
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.For):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if not _is_local(target):
                yield f"{ast.unparse(target)} = ..."


def _is_local(target: ast.expr) -> bool:
    """Return whether the target of an assignment is local: a name, names, or a list at the head of a class."""
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_local, target.elts))
    if isinstance(target, ast.Subscript):
        target = target.value
        return isinstance(target, ast.Name) and target.id in _LISTS
    return isinstance(target, ast.Name)


def _in_attribute(node: ast.Attribute, defined: Set[str], is_operator: Callable[[str], bool]) -> Iterator[str]:
    """Yield dotted names such as ``torch.save``, and attributes of values, that are not allowed."""
    if _root(node) in _ROOTS:
        dotted = ast.unparse(node)
        if dotted not in defined and dotted not in _DOTTED:
            yield dotted
    elif not _is_harmless(node.attr, is_operator):
        yield f".{node.attr}"


def _root(node: ast.expr) -> str | None:
    """Return the first name of a dotted name; None for an attribute of another expression."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _in_call(node: ast.Call, is_operator: Callable[[str], bool]) -> Iterator[str]:
    """Yield calls of ``getattr`` with a name that is not allowed."""
    if isinstance(node.func, ast.Name) and node.func.id == "getattr":
        name = node.args[1] if len(node.args) > 1 else None
        if not isinstance(name, ast.Constant) or not _is_harmless(str(name.value), is_operator):
            yield ast.unparse(node)


def _is_harmless(attribute: str, is_operator: Callable[[str], bool]) -> bool:
    """Return whether an attribute, of any value and called or not, cannot mean an operator off the list."""
    return attribute in OPERATORS | _ATTRIBUTES or not (attribute.startswith("__") or is_operator(attribute))


def _in_names(tree: ast.Module) -> Iterator[str]:
    """Yield names that the file does not define, and names of TorchScript that the file redefines."""
    allowed = _FUNCTIONS | _TYPES | _CONSTANTS | _LISTS
    inside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for scope in (tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))):
        bound = {node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)}
        names = [node for node in ast.walk(scope) if isinstance(node, ast.Name)]
        bound |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        yield from (f"{name} as a name" for name in bound & (_ROOTS | _FUNCTIONS | {"print", "fork", "awaitable"}))
        for node in names:
            is_root = node.id in _ROOTS and id(node) in inside
            if isinstance(node.ctx, ast.Load) and not is_root and node.id not in allowed | bound:
                yield node.id
