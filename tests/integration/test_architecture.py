"""What the import contracts of pyproject.toml cannot say: files that stand alone, and what `--help` loads."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.repository.encoded import DECODER_MODULES
from tests.programs import ROOT, run_python
from tritonkit.images import preprocess

PACKAGES = ("tritonkit", "train", "builder", "server", "client", "benchmarks", "scripts")
IMAGES = Path(preprocess.__file__).parent

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
HEAVY_FOR_NOUNS = {"torch", "timm", "tensorrt", "onnxruntime", "openvino", "tritonclient", "docker", "fsspec", "av"}
HEAVY_FOR_HELP = {
    *HEAVY_FOR_NOUNS,
    *("cryptography", "lightning", "plotly", "s3fs", "urllib3", "matplotlib", "pyarrow", "numpy", "sklearn"),
}
LIGHT_IMPORTS = {
    "builder, tritonkit": {"numpy", "PIL", "pydantic", "torch", "tritonclient"},
    "client": {"numpy", "PIL", "pydantic", "tritonclient"},
    "tritonkit.export_options": {"torch", "onnxruntime"},
    "train.config.loading, train.config.example": {"torch", "lightning"},
}
HELPED = [["train", "fit"], ["train", "test"], ["bench", "run"]]
"""Commands whose own help is asked for too."""

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def sources(*packages: str) -> Iterator[Path]:
    """Python files of the packages, or of all of ours."""
    for package in packages or PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def loaded_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys; print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = run_python("-c", code + report)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


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


def test_nouns_load_no_heavy_library_when_only_their_light_part_is_imported() -> None:
    modules = [name for path in sources("tritonkit") if not (name := module_of(path)).startswith(NEEDS_A_LIBRARY)]
    assert len(modules) > 40
    assert not loaded_by(f"import {', '.join(modules)}") & HEAVY_FOR_NOUNS


@pytest.mark.parametrize("modules", LIGHT_IMPORTS)
def test_import_loads_no_library_before_it_is_needed(modules: str) -> None:
    assert not loaded_by(f"import {modules}") & LIGHT_IMPORTS[modules]


@pytest.mark.parametrize("words", [*([script] for script in SCRIPTS), *HELPED], ids=" ".join)
def test_help_loads_no_heavy_library(words: list[str]) -> None:
    module, _, name = SCRIPTS[words[0]].partition(":")
    code = (
        f"import sys; sys.argv = {[*words, '--help']!r}\n"
        f"from {module} import {name}\n"
        f"try: {name}()\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert not loaded_by(code) & HEAVY_FOR_HELP
