"""TorchScript files, which are programs: one is loaded when all it can do is compute.

Its code runs in an interpreter of its own that knows no Python, yet has operators for files, processes and other
machines. So the text of a file is looked through before it is loaded, since defaults of arguments and `__setstate__`
run while loading; then every function that was compiled, whether one can see who calls it or not.
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

from model.errors import ArtifactError, InputError, first_line
from model.spec import METADATA_KEY

_ALLOWED_NAMESPACES = ("aten", "quantized", "torchvision")
"""Namespaces of operators that compute, but for `_NEVER`."""
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
"""What the language itself compiles to: values, branches, and calls of functions that are looked into as well."""
_FORBIDDEN_CODE = re.compile(
    rb"\b(?:save|from_file|fork|awaitable\w*|rpc_\w+|\w*PythonOp|__setstate__)\b"
    rb"|(?<!\.)\bops\b(?!\.(?:aten|prim|quantized|torchvision)\.\w)"
    rb"|torch(?:[^\w#]|#[^\n]*\n)+classes\b(?!\.(?:quantized|sparse|xnnpack)\.)"
)
"""In code. Raw words, also in strings and comments: nothing has to be parsed as torch would parse it."""
_FORBIDDEN_CLASSES = re.compile(rb"torch[.\n]classes[.\n](?!(?:quantized|sparse|xnnpack)\b)\w+")
"""In pickles: C++ classes that are made while loading."""
_CPP_CLASS = re.compile(r"__torch__\.torch\.classes\.(?!(?:quantized|sparse|xnnpack)\.)[\w.]+")
_GETATTR = re.compile(rb"\bgetattr\([\w.()\[\]]+, \"[^\"\\\n]*\"\)")
_OTHER_LOADERS = ("model.json",)
"""Has torch read the archive by an older format's rules."""
_REMEDY = "Give the checkpoint, or an ONNX file exported where the model is trusted"


def load_torchscript(path: Path, device: torch.device | None = None) -> Any:
    """The module of a TorchScript file, ready to infer; none of its code runs unless all of it only computes.

    Raises ArtifactError for a file that is damaged or no TorchScript, InputError for one that may do more.
    """
    _check_text(path, _records(path))
    units = torch._C.CompilationUnit()
    try:
        with warnings.catch_warnings(action="ignore"):
            # As torch.jit.load does, which does not give away the functions that it compiled.
            loaded = torch._C.import_ir_module(  # type: ignore[call-arg]
                units, os.fspath(path), device or torch.device("cpu"), {}, False
            )
            kinds = _compiled_operators(units)
    except Exception as error:  # torch's errors share no base class
        raise ArtifactError(f"{path}: no TorchScript that torch can load ({torch_reason(error)})") from error
    if strange := sorted(kind for kind in kinds if not _is_allowed(kind)):
        raise _unsafe_error(path, ", ".join(strange))
    module = torch.jit._recursive.wrap_cpp_module(loaded)  # type: ignore[no-untyped-call]
    return module.eval()


def carried_spec(path: Path) -> str | None:
    """The text of the spec that `builder export` writes into an archive, None without one. Raises ArtifactError."""
    text = _records(path, name=f"extra/{METADATA_KEY}").get(f"extra/{METADATA_KEY}")
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: the spec it carries is damaged ({error})") from error


def torch_reason(error: BaseException) -> str:
    """What went wrong: a sentence, without the listing of the module's code and the advice that torch puts round it."""
    named = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
    text = named[0].removeprefix("RuntimeError: ") if named else first_line(error)
    return text.partition(". ")[0]


def _records(path: Path, name: str | None = None) -> Mapping[str, bytes]:
    """Code and pickles by name, or the record wanted alone, as torch's own reader finds them.

    Another reader might be led to other bytes by a second directory, or by names in another case, which torch takes.
    """
    try:
        names, records, damaged = _read(path, name)
    except Exception as error:  # a damaged file fails wherever the reader happens to be
        raise ArtifactError(f"{path}: no TorchScript archive that torch can load ({torch_reason(error)})") from error
    if damaged is not None:
        raise ArtifactError(f"{path}: is damaged: {damaged} in it has changed since it was written; copy it again")
    if old := [name for name in names if name.lower() in _OTHER_LOADERS]:
        raise ArtifactError(f"{path}: is of an old format ({old[0]}); load it with torch and save it anew")
    return records


def _read(path: Path, name: str | None) -> tuple[list[str], dict[str, bytes], str | None]:
    """All names, the contents of those wanted, and the first that is damaged; its checksums are not torch's to read."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(b"PK\x03\x04") or head.endswith(b"PTMF"):
        raise ValueError("it is no zip file")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip() if name is None else None
    reader = torch._C.PyTorchFileReader(os.fspath(path))
    names = reader.get_all_records()
    selected = [name for name in names if (name == name if name else _is_code(name))]
    return names, {name: bytes(reader.get_record(name)) for name in selected}, damaged


def _is_code(name: str) -> bool:
    name = name.lower()  # torch finds a record whatever the case of its name
    return name.endswith(".pkl") or (name.startswith("code/") and not name.endswith(".debug_pkl"))


def _check_text(path: Path, records: Mapping[str, bytes]) -> None:
    if "constants.pkl" not in records:
        raise ArtifactError(f"{path}: no TorchScript archive that torch can load: it has no constants.pkl")
    for name, text in records.items():
        if name.lower().endswith(".pkl"):
            found = _FORBIDDEN_CLASSES.search(text)
        else:
            found = _FORBIDDEN_CODE.search(text) or re.search(rb"\bgetattr\b", _without_getattr(text))
        if found is not None:
            raise _unsafe_error(path, f"{found[0].decode(errors='replace').split()[0]} (in {name})")


def _without_getattr(code: bytes) -> bytes:
    """Code without the attributes that are named by a plain text, which `_WORDS` reads; other texts could be joined."""
    while (shorter := _GETATTR.sub(b"attr", code)) != code:
        code = shorter
    return code


def _compiled_operators(units: Any) -> set[str]:
    """The operators of all functions; to look into one may compile those that it calls."""
    kinds: set[str] = set()
    seen = 0
    while len(functions := units.get_functions()) > seen:
        for function in functions[seen:]:
            kinds.update(_graph_operators(function.graph))
        seen = len(functions)
    return kinds


def _graph_operators(graph: Any) -> Iterator[str]:
    """The operators of a graph, of the blocks in it, and of graphs that stand in attributes."""
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
                yield "prim::Graphs"  # that none of the language's own nodes has


def _is_allowed(kind: str) -> bool:
    namespace, _, name = kind.partition("::")
    return (
        name in _ALLOWED_PRIM
        if namespace == "prim"
        else namespace in _ALLOWED_NAMESPACES and kind not in _FORBIDDEN_OPERATORS
    )


def _unsafe_error(path: Path, what: str) -> InputError:
    return InputError(f"{path}: calls {what}, which may do more than compute, and is not run. {_REMEDY}")
