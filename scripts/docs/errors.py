"""Write docs/errors.md: every error code, its class and its message, read from the source.

python -m scripts.docs.errors
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tritonkit import errors
from tritonkit.errors import TritonkitError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("tritonkit", "train", "builder", "server", "client", "benchmarks")
_FINDINGS = {"error": "finding (error)", "warning": "finding (warning)", "Problem": "problem"}
_HEAD = """# Error codes

Each error has a stable code beside its sentence. Programs compare codes; sentences may change between versions.

```
$ client infer cat.jpg --from missing.onnx --json
{"error": {"type": "...", "code": "...", "message": "..."}}
```

- `type` is the class of the Python API (`tritonkit.errors`).
- An error that reports several faults lists them in `problems`, each with its own `code` and `message`.
- Findings of `builder check` and `server doctor`, and the problems of a verdict, carry codes of the same form.
- The exit code tells who has to act: 1, the check failed; 2, the input or the usage is wrong; 3, something outside
  failed (a server, a disk, the network); 130, the command was interrupted.
- Errors of Python itself have these codes: `system.file`, a file that cannot be read or written; `system.failed`, the
  machine failed, such as a full disk; `install.missing_module`, a missing package; `process.interrupted`, Ctrl-C or
  SIGTERM; `internal.error`, a fault of tritonkit, please report it.

`{name}` stands for a value. This page is generated from the source: `make reference`.
"""


class Entry(NamedTuple):
    """One place in the source that reports a code."""

    code: str
    reported_as: str
    message: str


def entries() -> list[Entry]:
    """Return all codes of the source, sorted, without duplicates of code and message."""
    unique_entries = {Entry(kind.code, kind.__name__, (kind.__doc__ or "").splitlines()[0]) for kind in error_classes()}
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split():
        if name.startswith(PACKAGES):
            tree = ast.parse((ROOT / name).read_text())
            unique_entries.update(
                entry for call in ast.walk(tree) if isinstance(call, ast.Call) for entry in _call_entries(call)
            )
    return sorted(unique_entries)


def error_classes() -> list[type[TritonkitError]]:
    """Return the classes of `tritonkit.errors`, in the order of the file."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TritonkitError)]
    return [kind for kind in kinds if kind.__module__ == errors.__name__]


def page() -> str:
    """Return the text of docs/errors.md."""
    areas: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries():
        area = entry.code.partition(".")[0]
        areas[area][entry.code, entry.reported_as].append(entry.message)
    lines = [_HEAD]
    for area, codes in sorted(areas.items()):
        lines += [f"## {area}", "", "| code | reported as | message |", "|---|---|---|"]
        for (code, reported_as), messages in sorted(codes.items()):
            messages_text = "<br>".join(_cell(message) for message in messages if message)
            lines.append(f"| `{code}` | {reported_as} | {messages_text} |")
        lines.append("")
    return "\n".join(lines)


def _call_entries(call: ast.Call) -> Iterator[Entry]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    arguments = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
    keywords = {word.arg: word.value for word in call.keywords}
    code = keywords.get("code") or (arguments.pop(0) if name == "Problem" and arguments else None)
    codes = [node.value for node in ast.walk(code) if isinstance(node, ast.Constant)] if code else []
    if "message" in keywords:
        text = _template(keywords["message"])
    elif name == "CommandLine":
        text = "a value that the option does not take"
    else:
        texts = [text for text in map(_template, [*arguments, *keywords.values()]) if text not in ("", *codes)]
        text = next(iter(sorted(texts, key=lambda text: " " not in text)), "")
    for value in codes:
        if isinstance(value, str) and "." in value:
            yield Entry(value, _FINDINGS.get(name, name if name.endswith("Error") else "problem"), text)


def _template(node: ast.expr) -> str:
    """Return a string literal with `{name}` in place of each value; empty for anything else."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_template, parts))
        case ast.FormattedValue(value=value):
            names = [part for part in ast.walk(value) if isinstance(part, ast.Name | ast.Attribute)]
            words = [part.attr if isinstance(part, ast.Attribute) else part.id for part in names]
            return "{" + next(iter(words), "...") + "}"
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _template(left) + _template(right)
        case ast.IfExp(body=body):
            return _template(body)
    return ""


def _cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return re.sub(r"([|*_\[])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
