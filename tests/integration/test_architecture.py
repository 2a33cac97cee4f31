"""What the import contracts of pyproject.toml cannot say: what an import and `--help` load."""

from __future__ import annotations

import json
import tomllib

import pytest

from tests.programs import ROOT, run_python
from tests.source_files import module_of, sources

NEEDS_A_LIBRARY = (
    "tritonkit.evaluation.evaluate",
    "tritonkit.evaluation.label_checks",
    "tritonkit.evaluation.labelled_images",
    "tritonkit.evaluation.labelled_tables",
    "tritonkit.evaluation.tasks",
    "tritonkit.networks",
    "tritonkit.runtimes.faiss",
    "tritonkit.runtimes.onnxruntime",
    "tritonkit.runtimes.openvino",
    "tritonkit.runtimes.pytorch",
    "tritonkit.runtimes.tensorrt",
    "tritonkit.runtimes.torchscript",
    "tritonkit.tasks.layers",
    "tritonkit.triton.runner",
)
HEAVY_FOR_NOUNS = {"torch", "timm", "tensorrt", "onnxruntime", "openvino", "tritonclient", "docker", "fsspec", "av"}
HEAVY_FOR_HELP = HEAVY_FOR_NOUNS | {"cryptography", "lightning", "plotly", "s3fs", "urllib3", "matplotlib", "pyarrow"}
HEAVY_FOR_SOME = {"train": {"numpy", "sklearn"}, "bench": {"numpy"}}
"""Libraries that the help of these commands does without too."""
LIGHT_IMPORTS = {
    "builder, tritonkit": {"numpy", "PIL", "pydantic", "torch", "tritonclient"},
    "client": {"numpy", "PIL", "pydantic", "tritonclient"},
    "tritonkit.export_options": {"torch", "onnxruntime"},
    "builder.repository.lint, builder.repository.promote, builder.show": {"torch", "timm"},
    "train.config.loading, train.config.example": {"torch", "lightning"},
}
HELPED = [["train", "fit"], ["train", "test"], ["bench", "run"]]
"""Commands whose own help is asked for too."""

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def loaded_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after `code`."""
    report = "\nimport json, sys; print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = run_python("-c", code + report)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


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
    assert not loaded_by(code) & (HEAVY_FOR_HELP | HEAVY_FOR_SOME.get(words[0], set()))
