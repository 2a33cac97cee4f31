"""Loads TorchScript files. They are programs, so a file is loaded only if all its operators only compute.

Their code runs in torch's own interpreter, which has no Python, but operators for files, processes and other machines.
Default arguments and `__setstate__` run while loading, so the text of a file is checked before it is loaded. After
that, every compiled function is checked, whether it is called or not.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tritonkit.errors import ArtifactError, InputError, first_line
from tritonkit.spec import METADATA_KEY

_ALLOWED_NAMESPACES = ("aten", "quantized", "torchvision")
"""Namespaces of operators that only compute, except for `_FORBIDDEN_OPERATORS`."""
_FORBIDDEN_OPERATORS = ("aten::save", "aten::from_file", "aten::wait", "aten::_print")
# fmt: off
_ALLOWED_PRIM = frozenset({
    "BroadcastSizes", "CallFunction", "CallMethod", "Constant", "ConstantChunk", "CreateObject", "DictConstruct",
    "EnumName", "EnumValue", "GetAttr", "If", "ListConstruct", "ListUnpack", "Loop", "ModuleContainerIndex",
    "NumToTensor", "RaiseException", "SetAttr", "StringIndex", "TupleConstruct", "TupleIndex", "TupleSlice",
    "TupleUnpack", "Uninitialized", "abs", "data", "device", "dtype", "index", "is_cpu", "is_cuda", "is_meta",
    "is_mkldnn", "is_mps", "is_nested", "is_quantized", "is_sparse", "is_xla", "isinstance", "itemsize", "layout",
    "max", "min", "nbytes", "ndim", "rangelist", "requires_grad", "shape", "tolist", "type", "unchecked_cast",
    "unchecked_unwrap_optional",
})
# fmt: on
"""The language's own operators: values, branches, and calls of functions, which are checked as well."""
_FORBIDDEN_CODE = re.compile(
    rb"\b(?:save|from_file|fork|awaitable\w*|rpc_\w+|\w*PythonOp|__setstate__)\b"
    rb"|(?<!\.)\bops\b(?!\.(?:aten|prim|quantized|torchvision)\.\w)"
    rb"|torch(?:[^\w#]|#[^\n]*\n)+classes\b(?!\.(?:quantized|sparse|xnnpack)\.)"
)
"""Forbidden words in code. They are searched in strings and comments too, so no parser is needed."""
_FORBIDDEN_CLASSES = re.compile(rb"torch[.\n]classes[.\n](?!(?:quantized|sparse|xnnpack)\b)\w+")
"""Forbidden C++ classes in pickles, which are constructed while loading."""
_CPP_CLASS = re.compile(r"__torch__\.torch\.classes\.(?!(?:quantized|sparse|xnnpack)\.)[\w.]+")
_GETATTR = re.compile(rb"\bgetattr\([\w.()\[\]]+, \"[^\"\\\n]*\"\)")
_OTHER_LOADERS = ("model.json",)
"""Files that make torch read the archive by the rules of an older format."""
_REMEDY = "Use the checkpoint, or an ONNX file that was exported in an environment that trusts the model"


def load_torchscript(path: Path, device: torch.device | None = None) -> Any:
    """Load a TorchScript file in eval mode; none of its code runs unless all of it only computes.

    Raises ArtifactError for a damaged or other file, InputError for one with forbidden operators.
    """
    _check_text(path, _records(path))
    units = torch._C.CompilationUnit()
    try:
        with warnings.catch_warnings(action="ignore"):
            # The same as torch.jit.load, which does not return the compiled functions.
            loaded = torch._C.import_ir_module(  # type: ignore[call-arg]
                units, os.fspath(path), device or torch.device("cpu"), {}, False
            )
            kinds = _compiled_operators(units)
    except Exception as error:  # torch's errors share no base class
        raise ArtifactError(
            f"{path}: not a TorchScript file that torch can load ({torch_reason(error)})", code="torchscript.unreadable"
        ) from error
    if forbidden := sorted(kind for kind in kinds if not _is_allowed(kind)):
        raise _unsafe_error(path, ", ".join(forbidden))
    module = torch.jit._recursive.wrap_cpp_module(loaded)  # type: ignore[no-untyped-call]
    return module.eval()


def embedded_spec(path: Path) -> str | None:
    """Return the text of the spec in an archive of `builder export`, None if absent. Raises ArtifactError."""
    text = _records(path, record=f"extra/{METADATA_KEY}").get(f"extra/{METADATA_KEY}")
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: the spec in it is damaged ({error})", code="torchscript.damaged") from error


def torch_reason(error: BaseException) -> str:
    """Return the reason of a torch error as one sentence, without torch's listing of the code and its advice."""
    lines = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
    text = lines[0].removeprefix("RuntimeError: ") if lines else first_line(error)
    return text.partition(". ")[0]


def _records(path: Path, record: str | None = None) -> Mapping[str, bytes]:
    """Read code and pickles by name, or only one record, with torch's own reader.

    Another reader could read other bytes: because of a second directory, or names in another case, which torch accepts.
    """
    try:
        names, records, damaged = _read(path, record)
    except Exception as error:  # a damaged file can raise any error
        raise ArtifactError(
            f"{path}: not a TorchScript archive that torch can load ({torch_reason(error)})",
            code="torchscript.unreadable",
        ) from error
    if damaged is not None:
        raise ArtifactError(
            f"{path}: is damaged: {damaged} in it has changed since it was written; copy it again",
            code="torchscript.damaged",
        )
    if old := [name for name in names if name.lower() in _OTHER_LOADERS]:
        raise ArtifactError(
            f"{path}: has an old format ({old[0]}); load it with torch and save it again", code="torchscript.old_format"
        )
    return records


def _read(path: Path, record: str | None) -> tuple[list[str], dict[str, bytes], str | None]:
    """Return all names, the selected contents, and the first damaged record; torch does not verify the checksums."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(b"PK\x03\x04") or head.endswith(b"PTMF"):
        raise ValueError("it is not a zip file")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip() if record is None else None
    reader = torch._C.PyTorchFileReader(os.fspath(path))
    names = reader.get_all_records()
    selected = [name for name in names if (name == record if record else _is_code(name))]
    return names, {name: bytes(reader.get_record(name)) for name in selected}, damaged


def _is_code(name: str) -> bool:
    name = name.lower()  # torch ignores the case of record names
    return name.endswith(".pkl") or (name.startswith("code/") and not name.endswith(".debug_pkl"))


def _check_text(path: Path, records: Mapping[str, bytes]) -> None:
    if "constants.pkl" not in records:
        raise ArtifactError(
            f"{path}: not a TorchScript archive that torch can load: it has no constants.pkl",
            code="torchscript.unreadable",
        )
    for name, text in records.items():
        if name.lower().endswith(".pkl"):
            found = _FORBIDDEN_CLASSES.search(text)
        else:
            found = _FORBIDDEN_CODE.search(text) or re.search(rb"\bgetattr\b", _without_getattr(text))
        if found is not None:
            raise _unsafe_error(path, f"{found[0].decode(errors='replace').split()[0]} (in {name})")


def _without_getattr(code: bytes) -> bytes:
    """Remove getattr calls with a literal name, which `_FORBIDDEN_CODE` checks; other names could be computed."""
    while (shorter := _GETATTR.sub(b"attr", code)) != code:
        code = shorter
    return code


def _compiled_operators(units: Any) -> set[str]:
    """Return the operators of all functions; reading one may compile those that it calls."""
    kinds: set[str] = set()
    seen = 0
    while len(functions := units.get_functions()) > seen:
        for function in functions[seen:]:
            kinds.update(_graph_operators(function.graph))
        seen = len(functions)
    return kinds


def _graph_operators(graph: Any) -> Iterator[str]:
    """Yield the operators of a graph, its blocks, and the graphs in its attributes."""
    for node in graph.nodes():
        yield node.kind()
        for value in (*node.inputs(), *node.outputs()):
            yield from _CPP_CLASS.findall(str(value.type()))
        for block in node.blocks():
            yield from _graph_operators(block)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from _graph_operators(node.g(name))
            elif node.kindOf(name) == "gs":
                yield "prim::Graphs"  # no node of the language has such an attribute


def _is_allowed(kind: str) -> bool:
    namespace, _, name = kind.partition("::")
    return (
        name in _ALLOWED_PRIM
        if namespace == "prim"
        else namespace in _ALLOWED_NAMESPACES and kind not in _FORBIDDEN_OPERATORS
    )


def _unsafe_error(path: Path, content: str) -> InputError:
    return InputError(
        f"{path}: calls {content}, which may do more than compute, and is not run. {_REMEDY}", code="torchscript.unsafe"
    )
