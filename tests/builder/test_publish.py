"""Publishing is one step: readers see the old model or the new one, whatever happens to the builder."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.repository.check import check_repository
from builder.repository.publish import Neighbours, exchange_in_two, next_version, publication
from model.errors import ArtifactError
from model.staging import leftovers, staging_folder
from model.triton_config import versions_of

PUBLISH_FOREVER = """
import shutil, sys
from pathlib import Path
from builder.repository.publish import publication
from builder.config.triton_config import config_to_text
from model.triton_config import LAST_VERSION, read_config
from model.files import written_beside
version, repository = Path(sys.argv[1]), Path(sys.argv[2])
print("started", flush=True)
while True:
    with publication(repository, version.parent.name) as prepared:
        shutil.copytree(version, prepared.version_folder, dirs_exist_ok=True)
        for old in range(1, prepared.version - 2):
            shutil.rmtree(prepared.model / str(old), ignore_errors=True)
        config = read_config(version.parent)
        config.parameters[LAST_VERSION].string_value = str(prepared.version)
        for name in ("model.json", "labels.txt"):
            with written_beside(prepared.model / name) as beside:
                shutil.copy(version.parent / name, beside)
        with written_beside(prepared.model / "config.pbtxt") as beside:
            beside.write_text(config_to_text(config))
"""


def publish(repository: Path, name: str, text: str) -> int:
    with publication(repository, name) as prepared:
        (prepared.version_folder / "model.onnx").write_text(text)
        return prepared.version


def test_versions_count_up_and_keep_the_older_ones(tmp_path: Path) -> None:
    assert [publish(tmp_path / "r", "m", text) for text in "abc"] == [1, 2, 3]
    assert [(tmp_path / f"r/m/{v}/model.onnx").read_text() for v in (1, 2, 3)] == ["a", "b", "c"]
    assert not staging_folder(tmp_path / "r").exists()


def test_nothing_is_published_when_the_block_fails(tmp_path: Path) -> None:
    publish(tmp_path / "r", "m", "a")

    def fails() -> None:
        with publication(tmp_path / "r", "m") as prepared:
            (prepared.version_folder / "model.onnx").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert versions_of(tmp_path / "r/m") == [1]
    assert not leftovers(tmp_path / "r")


def test_version_is_not_reused_when_the_newest_was_deleted(tiny_repository: Path) -> None:
    model = tiny_repository / "pets"
    assert versions_of(model) == [1]
    shutil.rmtree(model / "1")
    assert next_version(model) == 2


def test_model_is_put_back_when_an_exchange_in_two_steps_was_killed(tmp_path: Path) -> None:
    publish(tmp_path / "r", "m", "a")
    staging = staging_folder(tmp_path / "r")
    staging.mkdir()
    (tmp_path / "r" / "m").rename(staging / "m-01234567.aside")
    (staging / "m-01234567").mkdir()
    assert publish(tmp_path / "r", "m", "b") == 2
    assert (tmp_path / "r/m/1/model.onnx").read_text() == "a"


def test_exchange_in_two_steps_swaps_and_undoes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange_in_two(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "first" / "second").exists()
    assert (tmp_path / "second" / "first").exists()
    with pytest.raises(OSError):
        exchange_in_two(tmp_path / "missing", tmp_path / "second")
    assert (tmp_path / "second" / "first").exists()


def test_models_are_put_back_when_one_of_them_cannot_be_moved_aside(tmp_path: Path) -> None:
    names = ("first", "n" * 250)  # no room for what is added to its name
    neighbours = Neighbours(tmp_path / "r", tmp_path / "aside")
    (tmp_path / "aside").mkdir()
    for name in names:
        (tmp_path / "r" / name).mkdir(parents=True)
        neighbours.go(name)
    with pytest.raises(OSError, match="too long"), neighbours.moved_around():
        pass
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(names)


def test_second_builder_is_refused_while_one_publishes(tmp_path: Path) -> None:
    with (
        publication(tmp_path / "r", "m") as prepared,
        pytest.raises(ArtifactError, match="another builder"),
        publication(tmp_path / "r", "m"),
    ):
        pass
    assert prepared.version == 1


def test_repository_is_whole_when_the_builder_is_killed_while_publishing(tiny_repository: Path) -> None:
    """Twenty kills within the first moments of publishing over and over; the swap happens many times in each."""
    chance = random.Random(0)
    template = tiny_repository.parent / "template" / "pets"
    shutil.copytree(tiny_repository / "pets", template)
    interrupted = 0
    for _ in range(20):
        builder = subprocess.Popen(
            [sys.executable, "-c", PUBLISH_FOREVER, str(template / "1"), str(tiny_repository)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert builder.stdout is not None
        builder.stdout.readline()
        time.sleep(chance.uniform(0.005, 0.12))
        os.kill(builder.pid, signal.SIGKILL)
        builder.wait()
        interrupted += bool(leftovers(tiny_repository))
        findings = check_repository(tiny_repository)
        assert not [finding for finding in findings if finding.severity == "error"], findings
    assert interrupted, "no kill hit the moment between preparing and publishing"
    assert next_version(tiny_repository / "pets") > 5
