"""What the import contracts of pyproject.toml cannot say: files that stand alone, and what `--help` loads."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.repository.encoded import DECODER_MODULES
from tritonkit.images import preprocess
from tritonkit.runtimes import formats

ROOT = Path(__file__).parents[1]
PACKAGES = ("tritonkit", "train", "builder", "server", "client", "benchmarks", "scripts")
IMAGES = Path(preprocess.__file__).parent
MAX_FILES = 15
"""Python files in a folder: more than these want a second folder."""

NEEDS_A_LIBRARY = (
    "tritonkit.evaluation.evaluate",
    "tritonkit.evaluation.label_checks",
    "tritonkit.evaluation.labelled_images",
    "tritonkit.evaluation.labelled_tables",
    "tritonkit.evaluation.tasks",
    "tritonkit.networks",
    "tritonkit.runtimes.onnxruntime",
    "tritonkit.runtimes.openvino",
    "tritonkit.runtimes.pytorch",
    "tritonkit.runtimes.tensorrt",
    "tritonkit.runtimes.torchscript",
    "tritonkit.tasks.layers",
    "tritonkit.triton.runner",
)
NO_FILES = {"ai.onnx", "torch.onnx", "source.plan", "verdict.plan"}
"""Words that end like an artifact: ONNX's domain, a logger of torch and two error codes."""
HEAVY_FOR_NOUNS = {"torch", "timm", "tensorrt", "onnxruntime", "openvino", "tritonclient", "docker", "fsspec", "av"}
HEAVY_FOR_HELP = HEAVY_FOR_NOUNS | {"cryptography", "lightning", "plotly", "s3fs", "urllib3", "matplotlib", "pyarrow"}

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def sources(*packages: str) -> Iterator[Path]:
    """Python files of the packages, or of all of ours."""
    for package in packages or PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each module a file imports, wherever in the file."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*above, *([node.module] if node.module else [])])


def loaded_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys; print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    command = [sys.executable, "-c", code + report]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


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
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
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


def test_every_package_says_that_it_is_typed() -> None:
    packages = [package for package in PACKAGES if package != "scripts"]
    assert [package for package in packages if not (ROOT / package / "py.typed").is_file()] == []


def test_nouns_load_no_heavy_library_when_only_their_light_part_is_imported() -> None:
    modules = [name for path in sources("tritonkit") if not (name := module_of(path)).startswith(NEEDS_A_LIBRARY)]
    assert len(modules) > 40
    assert not loaded_by(f"import {', '.join(modules)}") & HEAVY_FOR_NOUNS


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_no_heavy_library(script: str) -> None:
    module, _, name = SCRIPTS[script].partition(":")
    code = (
        f"import sys; sys.argv = [{script!r}, '--help']\n"
        f"from {module} import {name}\n"
        f"try: {name}()\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert not loaded_by(code) & HEAVY_FOR_HELP
