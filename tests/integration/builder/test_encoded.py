"""The decoder and the ensemble of a model are published with it, updated with it, and checked."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.config.encoded import decoder_config, ensemble_config
from builder.config.triton_config import config_for
from builder.interface import interface_of
from builder.pipeline import export
from builder.repository.encoded import DECODER_MODULES, check_companion_names
from builder.repository.lint import check_repository
from builder.repository.publish import publication
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from tests import task_specs
from tests.fixture_types import Command, NetworkOf
from tests.integration.builder.republish import republish
from tests.programs import ROOT, kill_started
from tritonkit.errors import InputError
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import METADATA_KEY, ModelSpec, TaskSpec
from tritonkit.triton.companions import decoder_of, ensemble_of, without_encoded
from tritonkit.triton.model_config import CONFIG_FILE, config_to_text, read_config

SOFT = TaskSpec(task="segmentation", labels=("background", "stamp"), probability=True)
TASK_SPECS = {**task_specs.TASK_SPECS, "segmentation": SOFT}


def findings(repository: Path) -> list[tuple[str, str]]:
    """The severity and message of each finding in the decoder and the ensemble."""
    return [(finding.severity, finding.message) for finding in check_repository(repository) if "pets_" in finding.path]


def test_decoder_contains_the_preprocess_module_of_tritonkit(tiny_repository: Path) -> None:
    version = tiny_repository / "pets_decode" / "1"
    assert (version / "preprocess.py").read_bytes() == (ROOT / "tritonkit" / "images" / "preprocess.py").read_bytes()
    spec = ModelSpec.from_json((tiny_repository / "pets" / METADATA_KEY).read_text(), origin="the model")
    assert json.loads((version / "preprocess.json").read_text()) == {**vars(spec.preprocess), "fill": [0, 0, 0]}
    assert set(json.loads((version / "manifest.json").read_text())["files"]) == {*DECODER_MODULES, "preprocess.json"}
    assert check_repository(tiny_repository) == []


def test_ensemble_has_an_encoded_input_and_the_outputs_of_the_model(tiny_repository: Path) -> None:
    model, ensemble = (read_config(tiny_repository / name) for name in ("pets", "pets_encoded"))
    assert [(tensor.name, list(tensor.dims)) for tensor in ensemble.input] == [("encoded", [1])]
    assert [(tensor.name, list(tensor.dims)) for tensor in ensemble.output] == [("probabilities", [3])]
    assert ensemble.max_batch_size == model.max_batch_size == 8
    assert [(step.model_name, step.model_version) for step in ensemble.ensemble_scheduling.step] == [
        ("pets_decode", -1),
        ("pets", -1),
    ]


@pytest.mark.parametrize("task", TASK_SPECS)
def test_ensemble_fits_the_model_of_every_task(tmp_path: Path, network_of: NetworkOf, task: str) -> None:
    spec = network_of(TASK_SPECS[task]).spec
    config = config_for(spec, interface_of(spec), 4, 1)
    for item in (config, decoder_config(config), ensemble_config(config)):
        (tmp_path / item.name / "1").mkdir(parents=True)
        (tmp_path / item.name / CONFIG_FILE).write_text(config_to_text(item))
    found = [
        item for item in check_repository(tmp_path) if item.path.startswith(str(tmp_path / ensemble_of(spec.name)))
    ]
    assert not [item for item in found if item.severity == "error"]
    outputs = [tensor.name for tensor in read_config(tmp_path / ensemble_of(spec.name)).output]
    assert outputs == [tensor.name for tensor in spec.outputs]


def test_companions_are_not_rewritten_when_a_version_does_not_change_them(tiny_repository: Path) -> None:
    before = {path: path.stat() for path in tiny_repository.glob("pets_*/**/*")}
    republish(tiny_repository, Preprocess(height=32, width=32))
    assert {path: path.stat().st_ino for path in tiny_repository.glob("pets_*/**/*")} == {
        path: stat.st_ino for path, stat in before.items()
    }


@pytest.mark.parametrize(
    "preprocess", [Preprocess(32, 32, crop_ratio=0.5), Preprocess(48, 40, fit="pad", fill=(1, 2, 3))]
)
def test_companions_follow_when_the_preprocessing_of_the_model_changes(
    tiny_repository: Path, preprocess: Preprocess
) -> None:
    republish(tiny_repository, preprocess)
    settings = json.loads((tiny_repository / "pets_decode" / "1" / "preprocess.json").read_text())
    assert (settings["height"], settings["crop_ratio"], settings["fill"]) == (
        preprocess.height,
        preprocess.crop_ratio,
        list(preprocess.fill),
    )
    (image,) = read_config(tiny_repository / "pets_decode").output
    assert list(image.dims) == [preprocess.height, preprocess.width, 3]
    assert not findings(tiny_repository)


def test_decoder_code_of_an_older_tritonkit_is_replaced_by_the_next_export(tiny_repository: Path) -> None:
    code = tiny_repository / "pets_decode" / "1" / "preprocess.py"
    code.write_text("# older")
    severities = [severity for severity, _ in findings(tiny_repository)]
    assert severities == ["error", "warning"]  # the manifest has another hash
    republish(tiny_repository, Preprocess(height=32, width=32))
    assert not findings(tiny_repository)


def test_tuned_settings_are_kept_when_companions_are_rebuilt(tiny_repository: Path) -> None:
    path = tiny_repository / "pets_decode" / CONFIG_FILE
    config = read_config(path.parent)
    config.dynamic_batching.max_queue_delay_microseconds = 300
    config.parameters["decoders"].string_value = "3"
    path.write_text(config_to_text(config))
    republish(tiny_repository, Preprocess(height=48, width=48))
    rebuilt = read_config(path.parent)
    assert rebuilt.dynamic_batching.max_queue_delay_microseconds == 300
    assert rebuilt.parameters["decoders"].string_value == "3"
    assert list(rebuilt.output[0].dims) == [48, 48, 3]


def test_companions_are_removed_by_no_encoded(
    command: Command, tiny_repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--repository", tiny_repository, "--max-batch", 8]
    result = command("builder", "export", checkpoint, "--no-encoded", *options)
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in tiny_repository.iterdir()] == ["pets"]


def test_ensemble_is_restored_when_the_publication_fails(tiny_repository: Path) -> None:
    def fails() -> None:
        with publication(tiny_repository, "pets") as prepared:
            prepared.companions.remove("pets_encoded")
            shutil.rmtree(tiny_repository / "pets")  # so that it cannot be moved into place
            (tiny_repository / "pets").write_text("in the way")

    with pytest.raises(Exception, match="pets: cannot be replaced"):
        fails()
    assert (tiny_repository / "pets_encoded" / CONFIG_FILE).is_file()


def test_export_is_refused_when_a_third_party_model_uses_the_name_of_a_companion(
    tiny_repository: Path, checkpoint: Path
) -> None:
    (tiny_repository / "pets_decode" / CONFIG_FILE).write_text('name: "pets_decode" backend: "python"')
    with pytest.raises(InputError, match=r"pets_decode: .* with --no-encoded"):
        export(ExportRequest(source=checkpoint, repository=tiny_repository))
    check_companion_names(tiny_repository, "pets", encoded=False)


def test_export_is_refused_under_the_name_of_an_ensemble(tiny_repository: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"pets_encoded: .* --name"):
        export(ExportRequest(source=source_from_checkpoint(checkpoint, "pets_encoded"), repository=tiny_repository))


@pytest.mark.parametrize(
    ("damage", "severity", "expected"),
    [
        (lambda r: shutil.rmtree(r / "pets_decode"), "error", "a step calls 'pets_decode', which is not in"),
        (lambda r: shutil.rmtree(r / "pets_encoded" / "1"), "error", "has no version folder: Triton needs one"),
        (lambda r: (r / "pets_decode/1/model.py").write_text(""), "error", "was changed since it was published"),
        (
            lambda r: (r / "pets_decode/1/preprocess.json").write_text("{}"),
            "error",
            "differs from the preprocessing of pets",
        ),
        (
            lambda r: edit(r / "pets_encoded", "max_batch_size: 8", "max_batch_size: 9"),
            "error",
            "its max_batch_size is 9",
        ),
        (lambda r: edit(r / "pets_decode", "dims: 32", "dims: 31"), "error", "'image' has another type"),
        (
            lambda r: edit(r / "pets_encoded", 'key: "image"', 'key: "picture"'),
            "error",
            "step pets has no input picture",
        ),
        (
            lambda r: edit(r / "pets_encoded", 'key: "image"', 'key: "picture"'),
            "error",
            "has no input image for step pets",
        ),
        (lambda r: edit(r / "pets_encoded", 'name: "encoded"', 'name: "other"'), "error", "no step produces 'encoded'"),
        (lambda r: shutil.rmtree(r / "pets"), "warning", "decodes images for pets, which is not here"),
    ],
)
def test_check_reports_problems_of_the_companions(
    tiny_repository: Path, damage: Callable[[Path], object], severity: str, expected: str
) -> None:
    damage(tiny_repository)
    assert {found_severity for found_severity, problem in findings(tiny_repository) if expected in problem} == {
        severity
    }


def edit(model: Path, old: str, new: str) -> None:
    text = (model / CONFIG_FILE).read_text()
    assert old in text
    (model / CONFIG_FILE).write_text(text.replace(old, new))


def test_repository_loads_when_the_builder_is_killed_between_a_model_and_its_ensemble(tiny_repository: Path) -> None:
    """The model alternates between two image sizes: an ensemble of the other size would not load."""
    rng = random.Random(0)
    ensemble_states = set()
    for _ in range(8):
        kill_started("-m", republish.__module__, tiny_repository, after_s=rng.uniform(0.005, 0.12))
        ensemble_states.add((tiny_repository / "pets_encoded").is_dir())
        errors = [problem for severity, problem in findings(tiny_repository) if severity == "error"]
        assert not errors
    republish(tiny_repository, Preprocess(height=32, width=32))
    assert check_repository(tiny_repository) == []
    assert True in ensemble_states


def test_names_of_companions_are_filtered_out() -> None:
    names = ["pets_encoded", "pets_decode", "pets", "cars_encoded", "code"]
    assert without_encoded(names) == ["cars_encoded", "code", "pets"]
    assert decoder_of("pets") in names
