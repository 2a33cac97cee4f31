"""Every error has a code, and docs/errors.md lists all of them."""

from __future__ import annotations

import ast
import re
import subprocess

from scripts.docs import errors

CODE_OF_THE_CLASS = {
    "AnswerError",
    "BusyError",
    "CertificateError",
    "DeadlineError",
    "NotReadyError",
    "TokenError",
    "UnknownModelError",
    "UnreachableError",
}
"""Classes whose own code says which fault it is."""


def test_every_error_is_raised_with_a_code() -> None:
    classes = {kind.__name__ for kind in errors.error_classes()} - CODE_OF_THE_CLASS
    without = []
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=errors.ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.split():
        if not name.startswith(errors.PACKAGES):
            continue
        for node in ast.walk(ast.parse((errors.ROOT / name).read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes):
                continue
            if "code" not in {word.arg for word in node.keywords}:
                without.append(f"{name}:{node.lineno} {node.func.id}")
    assert not without, "\n".join(without)


def test_codes_have_an_area_and_a_fault() -> None:
    assert [entry.code for entry in errors.entries() if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", entry.code)] == []


def test_page_of_errors_is_fresh() -> None:
    assert errors.PAGE.read_text() == errors.page(), "docs/errors.md is out of date; run `make reference`"
