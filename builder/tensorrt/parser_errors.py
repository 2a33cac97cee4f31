"""Turn the errors of TensorRT's ONNX parser, as Polygraphy logs them, into one sentence with a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
_ERROR = re.compile(r"In node -?\d+ with name: (.*?) and operator: (.*?) \(\w*\): ([A-Z_]+): (.*)", re.DOTALL)
"""TensorRT's text of one error of the parser: node, operator, name of the `ErrorCode`, description in C++."""
_REASONS = (r'&& "([^"]+)"', r"API Usage Error \((.+?)(?: In \w+ at .*)?\)$", r"Assertion failed: (.+)")
"""Reasons in a description: the text of an assertion, or of an API usage error."""


def parser_message(graph: str, title: str, logged: Sequence[str]) -> str:
    """Create one sentence with the graph, the operator, the node, the parser's reason and the remedy.

    logged: the log of the parser; only the log names a missing file.
    """
    errors = [match for line in logged if (match := _ERROR.match(line)) is not None]
    node, operator, code, description = errors[0].groups() if errors else ("", "", "", next(iter(logged), ""))
    location = f"operator {operator} " if operator else ""
    location += f"(node {node!r})" if node else ""
    missing = next((line for line in logged if "Failed to open file" in line), None)
    stated = (match for pattern in _REASONS if (match := re.search(pattern, description, re.MULTILINE)))
    if missing:
        reason = missing.rpartition("Failed to open file: ")[2].strip() + " is missing"
    elif (match := next(stated, None)) is not None:
        reason = match.group(1).strip()
    else:
        words = next(iter(description.strip().splitlines()), "")
        reason = code.lower().replace("_", " ") if words in ("", "false") else words
    everything = "\n".join((code, description, *logged))
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, everything)), _DEFAULT_REMEDY)
    more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
    refused = location.strip() or "the graph"
    return f"{graph}: {title} refuses {refused}: {reason.rstrip('.') or 'no reason was given'}{more}; {remedy}"
