"""Find the nodes of `--keep-fp32`, by patterns on names of nodes, operators and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from onnx import ModelProto

from tritonkit.errors import InputError


def match_nodes(flat: ModelProto, patterns: Sequence[str]) -> list[str]:
    """The nodes whose name, operator, or a tensor of theirs matches one of the shell-style patterns.

    Raises InputError for patterns that match nothing.
    """
    matched: dict[str, None] = {}
    unmatched = []
    for pattern in patterns:
        matching = [
            node.name
            for node in flat.graph.node
            if any(fnmatchcase(name, pattern) for name in (node.name, node.op_type, *node.input, *node.output))
        ]
        matched |= dict.fromkeys(matching)
        if not matching:
            unmatched.append(pattern)
    if unmatched:
        operators = sorted({node.op_type for node in flat.graph.node})
        weights = [tensor.name for tensor in flat.graph.initializer if "." in tensor.name][:3]
        raise InputError(
            f"--keep-fp32 {', '.join(unmatched)}: matches no node, operator or tensor of the graph. Its operators are "
            f"{', '.join(operators)}; tensors have names such as {', '.join(weights)}; * stands for anything",
            code="option.keep_fp32",
        )
    return list(matched)
