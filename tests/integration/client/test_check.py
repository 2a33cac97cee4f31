"""`client check` on a real Triton: a served model is compared with its checkpoint."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.process import Server
from tests.errors import error_codes
from tests.fixture_types import Command
from tritonkit.golden import Golden
from tritonkit.spec import ModelSpec


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """A copy of the served repository. Changing it looks as if the server had other weights."""
    return Path(shutil.copytree(repository, tmp_path / "copied"))


@pytest.fixture
def check(command: Command, served: str, copied: Path) -> Command:
    """Compare served models with the copied repository."""
    return partial(command, "client", "check", "--url", served, "--repository", copied, "--json")


def test_served_models_pass_when_they_are_those_of_the_repository(
    command: Command, served: str, triton: Server, repository: Path
) -> None:
    completed = command("client", "check", "--all", "--url", served, "--repository", repository, "--json")
    assert completed.exit_code == 0, completed.stdout + completed.stderr
    results = json.loads(completed.stdout)
    assert {result["model"] for result in results} == {
        "resnet18",
        "efficientnet_b0",
        "vit_tiny_patch16_224",
        "imagenet",
    }
    for result in results:
        assert result["problems"] == []
        sizes = ["batch 1", "batch 3", "batch 8", "batch 2", "batch 4"]
        assert [entry["asked"] for entry in result["comparisons"]] == [*sizes, "probes"]
        assert all(entry["max_abs"] <= result["limits"]["max_abs"] for entry in result["comparisons"])


def known(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def test_served_model_is_measured_on_labelled_images(
    command: Command, served: str, repository: Path, tmp_path: Path
) -> None:
    version = repository / "resnet18" / "1"
    golden, spec = Golden.load(version / "golden.npz"), ModelSpec.read(version)
    assert spec is not None
    found = [spec.labels[at] for at in golden.outputs["probabilities"][:3].argmax(axis=1)]
    for number, (image, label) in enumerate(zip(golden.images, found, strict=False)):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / label / f"{number}.png")
    words = ("client", "check", "resnet18", "--url", served, "--repository", repository, "--data", tmp_path)
    (result,) = json.loads(command(*words, "--json").stdout)
    local = json.loads(command("train", "test", version / "model.onnx", "--data", tmp_path, "--json").stdout)["metrics"]
    assert result["quality"] == {
        f"server on {len(found)} pictures of {tmp_path}": pytest.approx(known(local), abs=1e-4)
    }
    shown = command(*words).stdout
    assert f"resnet18 version 1, measured on {len(found)} pictures of {tmp_path}:\n" in shown
    (tmp_path / found[0]).rename(tmp_path / "a label of another model")
    completed = command(*words, "--json")
    assert completed.exit_code == 2
    assert "data.unknown_labels" in error_codes(completed)


def test_other_models_are_checked_when_one_has_no_golden_sample(check: Command, copied: Path) -> None:
    (copied / "resnet18" / "1" / "golden.npz").unlink()
    completed = check("--all")
    assert completed.exit_code == 1, completed.stderr
    problems = {result["model"]: result["problem_codes"] for result in json.loads(completed.stdout)}
    assert problems.pop("resnet18") == ["golden.missing"]
    assert len(problems) == 3
    assert not any(problems.values())


def test_check_fails_when_the_server_gives_other_answers(
    command: Command, check: Command, served: str, copied: Path
) -> None:
    path = copied / "resnet18" / "1" / "golden.npz"
    golden = Golden.load(path)
    other_outputs = {name: np.roll(array, 1, axis=1) for name, array in golden.outputs.items()}
    Golden(golden.images, other_outputs, source=golden.source).save(path)
    completed = command("client", "check", "resnet18", "imagenet", "--url", served, "--repository", copied)
    assert completed.exit_code == 1
    assert "resnet18" in completed.stdout
    assert completed.stdout.count("FAILED") == 5, "at batch 1, 2, 3, 4 and 8"
    results = {result["model"]: result["problem_codes"] for result in json.loads(check("resnet18", "imagenet").stdout)}
    assert "check.decisions" in results["resnet18"]
    assert results["imagenet"] == []


def test_check_fails_when_the_server_is_wrong_about_a_probe_alone(check: Command, copied: Path) -> None:
    path = copied / "resnet18" / "1" / "golden.npz"
    golden = Golden.load(path)
    for array in golden.probe_outputs.values():
        array[0] = np.roll(array[0], 1)
    golden.save(path)
    completed = check("resnet18")
    assert completed.exit_code == 1
    (result,) = json.loads(completed.stdout)
    assert "check.values" in result["problem_codes"]
    assert {problem.partition(":")[0] for problem in result["problems"]} == {"probes"}


def test_check_takes_its_limits_from_the_verdict(check: Command, copied: Path) -> None:
    verdict = copied / "resnet18" / "1" / "verdict.json"
    document = json.loads(verdict.read_text())
    document["limits"]["max_abs"] = 0.0
    verdict.write_text(json.dumps(document))
    strict = check("resnet18")
    assert json.loads(strict.stdout)[0]["limits"]["max_abs"] == 0.0
    verdict.write_text("{")
    broken = check("resnet18")
    assert broken.exit_code == 2
    assert error_codes(broken) == {"repository.unreadable_verdict"}


def test_golden_sample_of_another_model_is_refused(command: Command, served: str, copied: Path) -> None:
    other_model = copied / "imagenet" / "1" / "golden.npz"
    refused = command("client", "check", "resnet18", "--url", served, "--golden", other_model, "--json")
    assert refused.exit_code == 2
    assert error_codes(refused) == {"golden.other_model"}
    assert "imagenet/1/golden.npz: " in refused.stderr
    assert "labels, preprocess differ" in refused.stderr
    (other_model.parent / "model.json").unlink()  # only the arrays show it now
    completed = command("client", "check", "resnet18", "--url", served, "--golden", other_model, "--json")
    assert completed.exit_code == 1
    (result,) = json.loads(completed.stdout)
    assert result["problem_codes"] == ["check.shape"]
    assert all(datum in result["problems"][0] for datum in ("probabilities", "[9, 10]", "[9, 1000]"))


@pytest.fixture
def recorded(copied: Path, families: dict[str, Path], tmp_path: Path) -> Path:
    """The checkpoint of resnet18, with a golden sample that has the answers of a less precise server."""
    golden = Golden.load(copied / "resnet18" / "1" / "golden.npz")
    coarse = {name: (array + 2e-3).astype(np.float32) for name, array in golden.outputs.items()}
    checkpoint = Path(shutil.copy(families["resnet18"], tmp_path / "best.safetensors"))
    Golden(golden.images, coarse, source=golden.source).save(tmp_path / "best.golden.npz")
    return checkpoint


def loosen(version: Path) -> Path:
    """Set the limits of a version with a lower precision."""
    verdict = version / "verdict.json"
    document = json.loads(verdict.read_text())
    document["limits"] |= {"max_abs": 0.01, "relative": 100.0, "tie": 0.01}
    verdict.write_text(json.dumps(document))
    return verdict


def test_limits_of_fp32_are_used_when_the_verdict_is_not_found(
    command: Command, served: str, copied: Path, recorded: Path, tmp_path: Path
) -> None:
    words = ("client", "check", "resnet18", "--url", served, "--against", recorded)
    alone = command(*words, "--repository", tmp_path / "nowhere")
    assert alone.exit_code == 1
    assert "limits of fp32" in alone.stdout
    assert "--verdict" in alone.stdout
    verdict = loosen(copied / "resnet18" / "1")
    for more in (("--verdict", verdict), ("--repository", copied)):
        completed = command(*words, *more)
        assert completed.exit_code == 0, completed.output
        assert "limits of fp32" not in completed.stdout
    document = json.loads(command(*words, "--verdict", verdict, "--json").stdout)
    assert document[0]["verdict"] == str(verdict)
    missing = command(*words, "--verdict", tmp_path / "none.json", "--json")
    assert missing.exit_code == 2
    assert error_codes(missing) == {"repository.unreadable_verdict"}
    assert "none.json: " in missing.stderr


def test_verdict_of_another_model_is_not_used_with_a_checkpoint(
    command: Command, served: str, copied: Path, recorded: Path
) -> None:
    version = copied / "resnet18" / "1"
    loosen(version)
    shutil.copy(copied / "vit_tiny_patch16_224" / "1" / "model.json", version / "model.json")
    completed = command("client", "check", "resnet18", "--url", served, "--repository", copied, "--against", recorded)
    assert completed.exit_code == 1
    assert "limits of fp32" in completed.stdout
    refused = command("client", "check", "imagenet", "--url", served, "--against", recorded, "--json")
    assert refused.exit_code == 2
    assert error_codes(refused) == {"golden.other_model"}
    assert "best.safetensors: " in refused.stderr


def test_other_models_are_checked_when_a_file_of_one_is_broken(check: Command, copied: Path) -> None:
    (copied / "resnet18" / "1" / "golden.npz").write_bytes(b"torn")
    completed = check("--all")
    assert completed.exit_code == 1, completed.stderr
    problems = {result["model"]: result["problems"] for result in json.loads(completed.stdout)}
    assert "resnet18/1/golden.npz: " in problems.pop("resnet18")[0]
    assert not any(problems.values())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "check.models"),
        (["resnet18", "--all"], "check.models"),
        (["resnet18", "--golden", "a.npz", "--against", "b.safetensors"], "check.two_references"),
        (["resnet18", "--repository", "nowhere"], "golden.missing"),
        (["resnet18", "--masks", "masks"], "option.no_effect"),
        (["resnet18", "--against", "nowhere.safetensors"], "artifact.not_found"),
    ],
)
def test_check_refuses_wrong_options(command: Command, served: str, words: list[str], code: str) -> None:
    completed = command("client", "check", *words, "--url", served, "--json")
    assert completed.exit_code == 2
    assert error_codes(completed) == {code}
