"""What the ONNX parser of TensorRT says of a graph it does not take, as one sentence with a way out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.spec import Frozen

_WAYS: tuple[tuple[str, str], ...] = (
    (
        r"ntialias",
        "TensorRT has no antialiased Resize. Resize in the preprocessing or without antialiasing in the network; "
        "or serve the graph as it is, with --onnx",
    ),
    (
        r"Failed to open file|import initializer|xternal",
        "its weights lie in another file that is not beside it. Put that file there, or save the graph with its "
        "weights inside",
    ),
    (
        r"must be of same type|same type|Type mismatch|types? .*(mismatch|differ)",
        "two types meet there, and a strongly typed network casts nothing by itself. Put a Cast before the node, or "
        "keep it and its weights in one type",
    ),
    (
        r"[Oo]pset|[Vv]ersion .*not supported",
        "the graph's opset is not one it knows. Export the graph with opset 20",
    ),
    (
        r"Plugin not found|UNSUPPORTED_NODE|Unsupported|not supported",
        "TensorRT does not have it. Replace the layer in the network, or serve the graph as it is, with --onnx",
    ),
    (
        r"no graph|at least one output",
        "it holds no graph; it may be cut short, or be no ONNX file. Export it again",
    ),
)
_OTHERWISE = "Look at that node in the graph; the graph can be served as it is, with --onnx"


class Refusal(Frozen):
    """One complaint of the parser."""

    code: str
    """The name of TensorRT's `ErrorCode`."""
    operator: str = ""
    node: str = ""
    description: str


def sentence(graph: str, title: str, refusals: Sequence[Refusal], logged: Sequence[str] = ()) -> str:
    """One sentence: the graph, the operator, the node, the parser's reason, and the way out.

    logged: what the library wrote to its log meanwhile; a missing file is named there alone.
    """
    first = refusals[0] if refusals else Refusal(code="", description=next(iter(logged), "no reason was given"))
    where = f"operator {first.operator} " if first.operator else ""
    where += f"(node {first.node!r})" if first.node else ""
    everything = "\n".join((first.code, first.description, *logged))
    way = next((way for pattern, way in _WAYS if re.search(pattern, everything)), _OTHERWISE)
    more = f" ({len(refusals) - 1} more like it)" if len(refusals) > 1 else ""
    return f"{graph}: {title} does not take {where.strip() or 'the graph'}: {_reason(first, logged)}{more}; {way}"


def _reason(refusal: Refusal, logged: Sequence[str]) -> str:
    """The telling part of a description, which is C++: the text of an assertion, or of an API usage error."""
    missing = next((line for line in logged if "Failed to open file" in line), None)
    if missing:
        return missing.rpartition("Failed to open file: ")[2].strip() + " is missing"
    for pattern in (r'&& "([^"]+)"', r"API Usage Error \((.+?)(?: In \w+ at .*)?\)$", r"Assertion failed: (.+)"):
        if found := re.search(pattern, refusal.description, re.MULTILINE):
            return found.group(1).strip().rstrip(".")
    words = refusal.description.strip().splitlines()[0] if refusal.description.strip() else ""
    return refusal.code.lower().replace("_", " ") if words in ("", "false") else words.rstrip(".")
