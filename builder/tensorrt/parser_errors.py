"""Turn the errors of TensorRT's ONNX parser into one sentence with a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tritonkit.spec import Frozen

_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"ntialias",
        "TensorRT has no antialiased Resize. Resize in the preprocessing or without antialiasing in the network; "
        "or serve the graph as it is, with --onnx",
    ),
    (
        r"Failed to open file|import initializer|xternal",
        "the file with its weights is missing. Copy that file next to it, or save the graph with its weights inside",
    ),
    (
        r"must be of same type|same type|Type mismatch|types? .*(mismatch|differ)",
        "the node has inputs of two types, and a strongly typed network adds no casts. Put a Cast before the node, or "
        "keep it and its weights in one type",
    ),
    (
        r"[Oo]pset|[Vv]ersion .*not supported",
        "it does not know the graph's opset. Export the graph with opset 20",
    ),
    (
        r"Plugin not found|UNSUPPORTED_NODE|Unsupported|not supported",
        "TensorRT does not support it. Replace the layer in the network, or serve the graph as it is, with --onnx",
    ),
    (
        r"no graph|at least one output",
        "it holds no graph: it is truncated or not an ONNX file. Export it again",
    ),
)
_DEFAULT_REMEDY = "Look at that node in the graph; the graph can be served as it is, with --onnx"


class ParserError(Frozen):
    """One error of the parser."""

    code: str
    """The name of TensorRT's `ErrorCode`."""
    operator: str = ""
    node: str = ""
    description: str


def parser_message(graph: str, title: str, errors: Sequence[ParserError], logged: Sequence[str] = ()) -> str:
    """Create one sentence with the graph, the operator, the node, the parser's reason and the remedy.

    logged: the library's log of the same time; only the log names a missing file.
    """
    first = errors[0] if errors else ParserError(code="", description=next(iter(logged), "no reason was given"))
    location = f"operator {first.operator} " if first.operator else ""
    location += f"(node {first.node!r})" if first.node else ""
    everything = "\n".join((first.code, first.description, *logged))
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, everything)), _DEFAULT_REMEDY)
    more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
    return f"{graph}: {title} refuses {location.strip() or 'the graph'}: {_reason(first, logged)}{more}; {remedy}"


def _reason(error: ParserError, logged: Sequence[str]) -> str:
    """Extract the reason from a C++ description: the text of an assertion, or of an API usage error."""
    missing = next((line for line in logged if "Failed to open file" in line), None)
    if missing:
        return missing.rpartition("Failed to open file: ")[2].strip() + " is missing"
    for pattern in (r'&& "([^"]+)"', r"API Usage Error \((.+?)(?: In \w+ at .*)?\)$", r"Assertion failed: (.+)"):
        if match := re.search(pattern, error.description, re.MULTILINE):
            return match.group(1).strip().rstrip(".")
    words = error.description.strip().splitlines()[0] if error.description.strip() else ""
    return error.code.lower().replace("_", " ") if words in ("", "false") else words.rstrip(".")
