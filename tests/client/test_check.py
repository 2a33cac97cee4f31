"""`client check`: the verdict continued in production, on a real Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from model.golden import Golden
from server.process import Server

Command = Callable[..., Result]


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """A copy of what is served, to be changed: as if the server had other weights than the repository."""
    return Path(shutil.copytree(repository, tmp_path / "copied"))


def test_served_models_pass_when_they_are_those_of_the_repository(
    command: Command, served: str, triton: Server, repository: Path
) -> None:
    done = command("client", "check", "--all", "--url", served, "--repository", repository, "--json")
    assert done.exit_code == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {one["model"] for one in found} == {"resnet18", "efficientnet_b0", "vit_tiny_patch16_224", "imagenet"}
    for one in found:
        assert one["problems"] == []
        sizes = ["batch 1", "batch 3", "batch 8", "batch 2", "batch 4"]
        assert [entry["asked"] for entry in one["comparisons"]] == [*sizes, "probes"]
        assert all(entry["max_abs"] <= one["limits"]["max_abs"] for entry in one["comparisons"])


def test_other_models_are_checked_when_one_has_no_golden_sample(command: Command, served: str, copied: Path) -> None:
    (copied / "resnet18" / "1" / "golden.npz").unlink()
    done = command("client", "check", "--all", "--url", served, "--repository", copied, "--json")
    assert done.exit_code == 1, done.stderr
    problems = {one["model"]: one["problems"] for one in json.loads(done.stdout)}
    assert "no golden sample" in problems.pop("resnet18")[0]
    assert len(problems) == 3
    assert not any(problems.values())


def test_check_fails_when_the_server_answers_otherwise(command: Command, served: str, copied: Path) -> None:
    path = copied / "resnet18" / "1" / "golden.npz"
    golden = Golden.load(path)
    others = {name: np.roll(array, 1, axis=1) for name, array in golden.outputs.items()}
    Golden(golden.images, others, source=golden.source).save(path)
    done = command("client", "check", "resnet18", "imagenet", "--url", served, "--repository", copied)
    assert done.exit_code == 1
    assert "resnet18" in done.stdout
    assert "of images change their answer" in done.stdout
    assert done.stdout.count("FAILED") == 5, "at batch 1, 2, 3, 4 and 8"


def test_check_fails_when_the_server_is_wrong_about_a_probe_alone(command: Command, served: str, copied: Path) -> None:
    path = copied / "resnet18" / "1" / "golden.npz"
    golden = Golden.load(path)
    for array in golden.probed.values():
        array[0] = np.roll(array[0], 1)
    golden.save(path)
    done = command("client", "check", "resnet18", "--url", served, "--repository", copied)
    assert done.exit_code == 1
    assert "probes: values differ by up to" in done.stdout
    assert "batch 1: values differ" not in done.stdout


def test_check_takes_its_limits_from_the_verdict(command: Command, served: str, copied: Path) -> None:
    verdict = copied / "resnet18" / "1" / "verdict.json"
    said = json.loads(verdict.read_text())
    said["limits"]["max_abs"] = 0.0
    verdict.write_text(json.dumps(said))
    strict = command("client", "check", "resnet18", "--url", served, "--repository", copied, "--json")
    assert json.loads(strict.stdout)[0]["limits"]["max_abs"] == 0.0
    verdict.write_text("{")
    broken = command("client", "check", "resnet18", "--url", served, "--repository", copied)
    assert broken.exit_code == 2
    assert "no verdict that can be read" in broken.stderr


def test_golden_sample_of_another_model_is_refused(command: Command, served: str, copied: Path) -> None:
    other = copied / "imagenet" / "1" / "golden.npz"
    known = command("client", "check", "resnet18", "--url", served, "--golden", other)
    assert known.exit_code == 2
    assert "imagenet/1/golden.npz: is of another model than" in known.stderr
    assert "labels, preprocess differ" in known.stderr
    (other.parent / "model.json").unlink()  # nothing but the arrays tells
    done = command("client", "check", "resnet18", "--url", served, "--golden", other)
    assert done.exit_code == 1
    assert "probabilities: the server gives [9, 10], the checkpoint [9, 1000]" in done.stdout


@pytest.fixture
def recorded(copied: Path, families: dict[str, Path], tmp_path: Path) -> Path:
    """The checkpoint of resnet18, and beside it answers that a less precise server gives."""
    golden = Golden.load(copied / "resnet18" / "1" / "golden.npz")
    coarse = {name: (array + 2e-3).astype(np.float32) for name, array in golden.outputs.items()}
    checkpoint = Path(shutil.copy(families["resnet18"], tmp_path / "best.safetensors"))
    Golden(golden.images, coarse, source=golden.source).save(tmp_path / "best.golden.npz")
    return checkpoint


def loosen(version: Path) -> Path:
    """Limits as a version of less precision has them."""
    verdict = version / "verdict.json"
    said = json.loads(verdict.read_text())
    said["limits"] |= {"max_abs": 0.01, "relative": 100.0, "tie": 0.01}
    verdict.write_text(json.dumps(said))
    return verdict


def test_limits_of_fp32_are_told_when_the_verdict_is_not_at_hand(
    command: Command, served: str, copied: Path, recorded: Path, tmp_path: Path
) -> None:
    words = ("client", "check", "resnet18", "--url", served, "--against", recorded)
    alone = command(*words, "--repository", tmp_path / "nowhere")
    assert alone.exit_code == 1
    assert "judged by the limits of fp32, for its verdict.json is not here" in alone.stdout
    assert "--verdict" in alone.stdout
    verdict = loosen(copied / "resnet18" / "1")
    for more in (("--verdict", verdict), ("--repository", copied)):
        done = command(*words, *more)
        assert done.exit_code == 0, done.output
        assert "judged by" not in done.stdout
    said = json.loads(command(*words, "--verdict", verdict, "--json").stdout)
    assert said[0]["verdict"] == str(verdict)
    missing = command(*words, "--verdict", tmp_path / "none.json")
    assert missing.exit_code == 2
    assert "none.json: no verdict that can be read" in missing.stderr


def test_verdict_of_another_model_lends_no_limits_when_a_checkpoint_is_given(
    command: Command, served: str, copied: Path, recorded: Path
) -> None:
    version = copied / "resnet18" / "1"
    loosen(version)
    shutil.copy(copied / "vit_tiny_patch16_224" / "1" / "model.json", version / "model.json")
    done = command("client", "check", "resnet18", "--url", served, "--repository", copied, "--against", recorded)
    assert done.exit_code == 1
    assert "judged by the limits of fp32" in done.stdout
    without = command("client", "check", "imagenet", "--url", served, "--against", recorded)
    assert without.exit_code == 2
    assert "best.safetensors: is of another model than" in without.stderr


def test_other_models_are_checked_when_a_file_of_one_is_broken(command: Command, served: str, copied: Path) -> None:
    (copied / "resnet18" / "1" / "golden.npz").write_bytes(b"torn")
    done = command("client", "check", "--all", "--url", served, "--repository", copied, "--json")
    assert done.exit_code == 1, done.stderr
    problems = {one["model"]: one["problems"] for one in json.loads(done.stdout)}
    assert "not a readable golden sample" in problems.pop("resnet18")[0]
    assert not any(problems.values())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "name the models to check, or give --all"),
        (["resnet18", "--all"], "name the models to check, or give --all"),
        (["resnet18", "--golden", "a.npz", "--against", "b.safetensors"], "give one"),
        (["resnet18", "--repository", "nowhere"], "no golden sample with answers for resnet18 version 1"),
    ],
)
def test_check_says_what_it_lacks(command: Command, served: str, words: list[str], reason: str) -> None:
    done = command("client", "check", *words, "--url", served)
    assert done.exit_code == 2
    assert reason in done.stderr
