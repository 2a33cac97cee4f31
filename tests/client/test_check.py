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
        assert [entry["asked"] for entry in one["comparisons"]] == ["batch 1", "batch 3", "batch 8"]
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
    assert done.stdout.count("FAILED") == 3


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


def test_golden_sample_of_another_model_is_refused(command: Command, served: str, repository: Path) -> None:
    other = repository / "imagenet" / "1" / "golden.npz"
    done = command("client", "check", "resnet18", "--url", served, "--golden", other)
    assert done.exit_code == 1
    assert "probabilities: the server gives [9, 10], the checkpoint [9, 1000]" in done.stdout


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
