"""The import law, what may load at `--help`, and the size of things."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.repository.encoded import DECODER_MODULES

ROOT = Path(__file__).parents[1]
VERBS = ("train", "builder", "server", "client", "benchmarks")
ROOMS = ("model", *VERBS)
OURS = {*ROOMS, "scripts", "tests"}
NOT_SOURCES = {"tests", "demo", "runs", "model_repository"}

NEEDS_A_LIBRARY = {
    "model.backbones",
    "model.layers",
    "model.network",
    "model.runners.onnxruntime",
    "model.runners.openvino",
    "model.runners.pytorch",
    "model.runners.torchscript",
    "model.runners.triton",
    "model.torchscript",
    "model.torchvision_networks",
    "model.weight_matching",
    "model.weights",
}
HEAVY_FOR_THE_MODEL = {"torch", "timm", "tensorrt", "onnxruntime", "openvino", "tritonclient", "docker", "fsspec", "av"}
HEAVY_FOR_HELP = {
    "torch",
    "timm",
    "lightning",
    "onnxruntime",
    "openvino",
    "tritonclient",
    "tensorrt",
    "plotly",
    "docker",
    "fsspec",
    "s3fs",
    "urllib3",
    "av",
    "matplotlib",
    "pyarrow",
}

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 50
"""From here on a second idea is likely to hide in a file or a function."""

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def sources(*folders: str) -> Iterator[Path]:
    """Python files below the folders, or below all of ours."""
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    for folder in folders or sorted(names - NOT_SOURCES):
        yield from sorted((ROOT / folder).rglob("*.py"))


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


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def loaded_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys; print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    command = [sys.executable, "-c", code + report]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_the_model_and_itself(room: str) -> None:
    strangers = OURS - {room, "model"}
    broken = [
        f"{where(path, line)} imports {name}"
        for path in sources(room)
        for line, name in imports(path)
        if name.split(".")[0] in strangers
    ]
    assert not broken, "\n".join(broken)


def test_preprocess_stands_alone_so_that_a_server_can_carry_it() -> None:
    carried = [ROOT / "model" / name for name in DECODER_MODULES if name != "model.py"]
    allowed = {*sys.stdlib_module_names, "numpy", "PIL", *map(module_of, carried)}
    broken = [
        f"{where(path, line)} imports {name}"
        for path in carried
        for line, name in imports(path)
        if name not in allowed and name.split(".")[0] not in allowed
    ]
    assert not broken


def test_preprocess_loads_when_its_files_are_copied_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "carried").mkdir()
    for name in DECODER_MODULES:
        if name != "model.py":
            (tmp_path / "carried" / name).write_bytes((ROOT / "model" / name).read_bytes())
    code = (
        "import sys; from carried import pixel_budget, preprocess\n"
        "print(preprocess.Preprocess(8, 8).fit, {'pydantic', 'model'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "crop set()\n", done.stderr


def test_no_module_is_named_for_leftovers() -> None:
    shapeless = {"utils", "util", "helpers", "helper", "common", "misc"}
    broken = [str(path.relative_to(ROOT)) for path in sources() if shapeless & set(module_of(path).split("."))]
    assert not broken, "\n".join(broken)


def test_files_and_functions_stay_short() -> None:
    broken = []
    for path in sources():
        text = path.read_text()
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            broken.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.body[0].lineno + 1  # a command's options make no function long
                if length > MAX_FUNCTION_LINES:
                    broken.append(f"{where(path, node.lineno)} {node.name} has {length} lines")
    assert not broken, "\n".join(broken)


def test_model_loads_no_heavy_library_when_only_its_light_part_is_imported() -> None:
    modules = [name for path in sources("model") if (name := module_of(path)) not in NEEDS_A_LIBRARY]
    assert len(modules) > 10
    heavy = loaded_by(f"import {', '.join(modules)}") & HEAVY_FOR_THE_MODEL
    assert not heavy


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
