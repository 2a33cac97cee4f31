"""Old versions are deleted completely, but never a marked or served one, whatever happens to the builder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from builder.commands.versions import versions
from builder.config.serving_config import apply_serving
from builder.repository.lint import check_repository
from builder.repository.publish import next_version, publication
from builder.repository.retention import keep_newest
from builder.repository.versions import Mark, find_model, mark, model_versions, unmark
from tests.errors import raises
from tests.programs import kill_started
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import ServingOptions
from tritonkit.repository.staging import interrupted_exports, staging_folder
from tritonkit.spec import METADATA_KEY, ModelSpec
from tritonkit.system.files import atomic_write
from tritonkit.triton.model_config import LAST_VERSION, config_to_text, read_config, versions_of

RETAIN_FOREVER = """
import shutil, sys
from pathlib import Path
from builder.repository.publish import publication
from tritonkit.triton.model_config import versions_of
from builder.repository.retention import keep_newest
from tritonkit.triton.model_config import LAST_VERSION, config_to_text, read_config
from tritonkit.system.files import atomic_write
model = Path(sys.argv[1])
print("started", flush=True)
while True:
    for _ in range(2):
        with publication(model.parent, model.name) as prepared:
            shutil.copytree(model / str(versions_of(model)[-1]), prepared.version_folder, dirs_exist_ok=True)
            config = read_config(model)
            config.parameters[LAST_VERSION].string_value = str(prepared.version)
            with atomic_write(prepared.model / "config.pbtxt") as beside:
                beside.write_text(config_to_text(config))
    keep_newest(model, 2)
"""


def publish_copies(model: Path, count: int) -> None:
    """Publish copies of the newest version."""
    for _ in range(count):
        newest = versions_of(model)[-1]
        with publication(model.parent, model.name) as prepared:
            for path in (model / str(newest)).iterdir():
                if path.name != Mark.FILE:
                    (prepared.version_folder / path.name).hardlink_to(path)
            config = read_config(model)
            config.parameters[LAST_VERSION].string_value = str(prepared.version)
            with atomic_write(prepared.model / "config.pbtxt") as files:
                files.write_text(config_to_text(config))


def serve_by(model: Path, policy: str) -> None:
    config = read_config(model)
    apply_serving(
        config, ServingOptions(versions=policy), ModelSpec.from_json((model / METADATA_KEY).read_text(), "x").input
    )
    (model / "config.pbtxt").write_text(config_to_text(config))


@pytest.fixture
def pets(tiny_repository: Path) -> Path:
    """A model with versions 1 to 5."""
    publish_copies(tiny_repository / "pets", 4)
    return tiny_repository / "pets"


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(versions)
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_versions_describe_each_version(pets: Path) -> None:
    mark(pets, 2, "the one of the paper")
    model = model_versions(pets)
    assert [version.version for version in model.versions] == [1, 2, 3, 4, 5]
    assert [version.version for version in model.versions if version.served] == [5]
    assert model.policy == "latest:1"
    second = model.versions[1]
    assert (second.precision, second.verdict, second.mark and second.mark.note) == (
        "fp32",
        "passed",
        "the one of the paper",
    )
    assert second.created is not None
    assert second.bytes > (pets / "2/model.onnx").stat().st_size


def test_old_versions_are_deleted_unless_marked_or_served(pets: Path) -> None:
    mark(pets, 2)
    serve_by(pets, "1,5")
    result = keep_newest(pets, 1)
    assert versions_of(pets) == [1, 2, 5]
    assert result.deleted == (3, 4)
    assert result.freed_bytes > 0
    assert [(entry.version, entry.reason) for entry in result.kept] == [
        (1, "the version policy 1,5 serves it"),
        (2, "marked"),
    ]
    assert check_repository(pets.parent) == []
    assert not staging_folder(pets.parent).exists()


def test_nothing_is_deleted_when_all_versions_are_served(pets: Path) -> None:
    serve_by(pets, "all")
    result = keep_newest(pets, 1)
    assert versions_of(pets) == [1, 2, 3, 4, 5]
    assert result.summary().startswith("pets: deleted nothing (1 stays: the version policy all serves it;")


def test_version_served_before_is_kept_when_a_newer_one_replaces_it(pets: Path) -> None:
    result = keep_newest(pets, 1, served_before={4})
    assert versions_of(pets) == [4, 5]
    assert [(entry.version, entry.reason) for entry in result.kept] == [(4, "served until now")]


def test_nothing_is_deleted_when_there_are_no_more_versions_than_keep(pets: Path) -> None:
    assert keep_newest(pets, 9).deleted == ()
    with raises(InputError, "option.keep"):
        keep_newest(pets, 0)


def test_version_number_is_not_used_again_when_versions_were_deleted(pets: Path) -> None:
    keep_newest(pets, 1)
    publish_copies(pets, 1)
    assert versions_of(pets) == [5, 6]


def test_mark_survives_a_new_version_and_can_be_removed(pets: Path) -> None:
    mark(pets, 1, "first")
    mark(pets, 1, "again")
    publish_copies(pets, 1)
    keep_newest(pets, 1)
    assert versions_of(pets) == [1, 6]
    assert check_repository(pets.parent) == []
    unmark(pets, 1)
    unmark(pets, 1)
    assert keep_newest(pets, 1).deleted == (1,)
    with raises(InputError, "repository.unknown_version"):
        mark(pets, 1)


def test_nothing_is_deleted_when_a_mark_cannot_be_read(pets: Path) -> None:
    (pets / "1" / Mark.FILE).write_text("{")
    with raises(ArtifactError, "repository.mark"):
        keep_newest(pets, 1)
    assert versions_of(pets) == [1, 2, 3, 4, 5]


def test_nothing_is_deleted_while_another_builder_publishes(pets: Path) -> None:
    with publication(pets.parent, "other"), raises(ArtifactError, "repository.locked"):
        keep_newest(pets, 1)
    assert len(versions_of(pets)) == 5


def test_model_is_found_by_name_and_by_folder(pets: Path) -> None:
    assert find_model("pets", pets.parent) == find_model(str(pets), Path("nowhere")) == pets.resolve()
    with raises(InputError, "repository.unknown_model"):
        find_model("cars", pets.parent)


def test_command_lists_marks_and_deletes(pets: Path) -> None:
    assert run(pets, "--mark", 2, "--note", "the best").exit_code == 0
    result = run(pets, "--keep", 2)
    assert result.exit_code == 0, result.stderr
    assert "pets: deleted 1, 3 (2 stays: marked (the best))" in result.stdout
    assert "3 versions, Triton serves latest:1" in result.stdout
    assert run(pets, "--unmark", 2, "--keep", 2).exit_code == 0
    assert versions_of(pets) == [4, 5]
    wrong = run(pets, "--note", "why")
    assert (wrong.exit_code, "--mark" in wrong.stderr) == (2, True)


def test_next_builder_finishes_a_killed_deletion(pets: Path) -> None:
    aside = staging_folder(pets.parent)
    aside.mkdir()
    (pets / "1").rename(aside / "pets-1-01234567")
    assert len(interrupted_exports(pets.parent)) == 1
    assert [version.version for version in model_versions(pets).versions] == [2, 3, 4, 5]
    assert keep_newest(pets, 3).deleted == (2,)
    assert not aside.exists()


def test_marked_and_served_versions_are_complete_after_a_killed_builder(pets: Path) -> None:
    """Kill a builder that publishes and deletes in a loop."""
    rng = random.Random(0)
    mark(pets, 2, "kept")
    serve_by(pets, "1,4")
    interrupted, highest = 0, 5
    for _ in range(12):
        kill_started("-c", RETAIN_FOREVER, pets, after_s=rng.uniform(0.005, 0.2))
        interrupted += bool(interrupted_exports(pets.parent))
        findings = check_repository(pets.parent)
        assert not [finding for finding in findings if finding.severity == "error"], findings
        assert {1, 2, 4} <= set(versions_of(pets))
        assert next_version(pets) > highest
        highest = next_version(pets) - 1
    assert interrupted, "no kill hit a moment with something in the staging folder"
    keep_newest(pets, 1)
    assert versions_of(pets) == [1, 2, 4, highest]
    assert interrupted_exports(pets.parent) == []
