"""What the import contracts of pyproject.toml cannot say: files that stand alone, and what files are named and hold."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from builder.repository.encoded import DECODER_MODULES
from tests.programs import ROOT, run_python
from tests.source_files import PACKAGES, module_of, sources
from tritonkit.images import preprocess
from tritonkit.runtimes import formats

IMAGES = Path(preprocess.__file__).parent
MAX_FILES = 15
"""Python files in a folder: more than these want a second folder."""
NO_FILES = {"ai.onnx", "torch.onnx", "source.plan", "verdict.plan"}
"""Words that end like an artifact: ONNX's domain, a logger of torch and two error codes."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each module a file imports, wherever in the file."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*above, *([node.module] if node.module else [])])


def test_preprocess_stands_alone_so_that_a_server_can_carry_it() -> None:
    carried = [IMAGES / name for name in DECODER_MODULES if name != "model.py"]
    allowed = {*sys.stdlib_module_names, "numpy", "PIL", *map(module_of, carried)}
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in carried
        for line, name in imports(path)
        if name not in allowed and name.split(".")[0] not in allowed
    ]
    assert not broken


def test_preprocess_loads_when_its_files_are_copied_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "carried").mkdir()
    for name in DECODER_MODULES:
        if name != "model.py":
            (tmp_path / "carried" / name).write_bytes((IMAGES / name).read_bytes())
    code = (
        "import sys; from carried import pixel_budget, preprocess\n"
        "print(preprocess.Preprocess(8, 8).fit, {'pydantic', 'tritonkit'} & sys.modules.keys())"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout == "crop set()\n", done.stderr


def test_no_module_is_named_for_leftovers() -> None:
    shapeless = {"utils", "util", "helpers", "helper", "common", "misc"}
    broken = [str(path.relative_to(ROOT)) for path in sources() if shapeless & set(module_of(path).split("."))]
    assert not broken, "\n".join(broken)


def test_no_folder_holds_more_files_than_a_reader_takes_in() -> None:
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in sources())
    assert {folder: count for folder, count in folders.items() if count > MAX_FILES} == {}


def test_no_module_but_the_table_of_formats_knows_their_suffixes() -> None:
    suffixes = tuple(known.suffix for known in formats.BUILT_IN)
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"
        for path in sources()
        if path != Path(formats.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.endswith(suffixes) and " " not in node.value and node.value not in NO_FILES
    ]
    assert not found, "\n".join(found)


def test_every_package_says_that_it_is_typed() -> None:
    packages = [package for package in PACKAGES if package != "scripts"]
    assert [package for package in packages if not (ROOT / package / "py.typed").is_file()] == []


def test_parameters_that_docstrings_describe_exist() -> None:
    described = re.compile(r"(?:^|[.;] )([a-z_]+(?:, [a-z_]+)*): ", re.MULTILINE)
    stale = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                _, _, body = (ast.get_docstring(node) or "").partition("\n")
                names = {name for found in described.finditer(body) for name in found[1].split(", ")}
                parameters = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
                stale += [f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in sorted(names - parameters)]
    assert not stale, "\n".join(stale)
