"""Publication is atomic: readers see the old model or the new one, whatever happens to the builder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.repository.publish import CompanionModels, exchange_in_two, publication, staging
from tests.errors import raises
from tritonkit.errors import ArtifactError
from tritonkit.repository.staging import interrupted_exports, staging_folder
from tritonkit.triton.model_config import versions_of


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
    assert not interrupted_exports(tmp_path / "r")


def test_model_is_restored_after_a_killed_exchange_in_two_steps(tmp_path: Path) -> None:
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


def test_models_are_restored_when_one_cannot_be_moved_aside(tmp_path: Path) -> None:
    names = ("first", "n" * 250)  # no room for a suffix of the name
    companions = CompanionModels(tmp_path / "r", tmp_path / "aside")
    (tmp_path / "aside").mkdir()
    for name in names:
        (tmp_path / "r" / name).mkdir(parents=True)
        companions.remove(name)
    with pytest.raises(OSError, match="too long"), companions.apply_around(tmp_path / "r" / "m"):
        pass
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(names)


def test_model_stays_when_an_exchange_in_two_steps_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C arrives at every moment: right after a rename, or instead of it."""
    rename = os.rename
    for moment in range(3):
        repository = tmp_path / str(moment)
        publish(repository, "m", "a")
        renames = iter(range(9))

        def interrupted(old: Path, new: Path, moment: int = moment, renames: Iterator[int] = renames) -> None:
            rename(old, new)
            if next(renames) == moment:
                raise KeyboardInterrupt

        def exchange(repository: Path = repository, interrupted: Callable[..., None] = interrupted) -> None:
            with staging(repository) as aside, monkeypatch.context() as patched:
                shutil.copytree(repository / "m", aside / "m-01234567")
                patched.setattr(os, "rename", interrupted)
                exchange_in_two(aside / "m-01234567", repository / "m")

        with pytest.raises(KeyboardInterrupt):
            exchange()
        assert (repository / "m/1/model.onnx").read_text() == "a"
        assert not staging_folder(repository).exists()


@pytest.mark.parametrize("changed", [False, True])
def test_companion_is_restored_only_when_the_model_did_not_change(tmp_path: Path, changed: bool) -> None:
    publish(tmp_path / "r", "m", "a")
    publish(tmp_path / "r", "m_encoded", "a")

    def interrupted() -> None:
        with staging(tmp_path / "r") as aside:
            companions = CompanionModels(tmp_path / "r", aside)
            companions.remove("m_encoded")
            shutil.copytree(tmp_path / "r" / "m", aside / "m-01234567")
            with companions.apply_around(tmp_path / "r" / "m"):
                assert not (tmp_path / "r" / "m_encoded").exists()
                if changed:
                    exchange_in_two(aside / "m-01234567", tmp_path / "r" / "m")
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "r" / "m_encoded").exists() is not changed


def test_version_is_added_when_an_older_one_is_a_link_into_another_model(tmp_path: Path) -> None:
    publish(tmp_path / "r", "other", "shared")
    publish(tmp_path / "r", "m", "a")
    (tmp_path / "r/m/1/model.onnx").unlink()
    (tmp_path / "r/m/1/model.onnx").symlink_to("../../other/1/model.onnx")
    assert publish(tmp_path / "r", "m", "b") == 2
    assert (tmp_path / "r/m/1/model.onnx").readlink() == Path("../../other/1/model.onnx")
    assert (tmp_path / "r/m/1/model.onnx").read_text() == "shared"


def test_publication_is_refused_when_the_parent_folder_cannot_be_written(tmp_path: Path) -> None:
    publish(tmp_path / "r", "m", "a")
    staging_folder(tmp_path / "r").write_text("a file where the folder should be")
    with raises(ArtifactError, "repository.staging"):
        publish(tmp_path / "r", "m", "b")
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["m"]


def test_second_builder_is_refused_while_one_publishes(tmp_path: Path) -> None:
    with (
        publication(tmp_path / "r", "m") as prepared,
        raises(ArtifactError, "repository.locked"),
        publication(tmp_path / "r", "m"),
    ):
        pass
    assert prepared.version == 1
