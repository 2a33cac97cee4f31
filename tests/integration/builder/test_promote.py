"""The served version: promotion, rollback, and publication next to a pinned version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies.local_triton import serve
from builder.config.triton_config import config_for
from builder.interface import interface_of
from builder.pipeline import export
from builder.repository.lint import check_repository
from builder.repository.promote import promote, rollback
from builder.repository.publish import publication
from builder.repository.shared_files import SharedFiles, shared_version, version_spec
from builder.request import ExportRequest
from builder.sources import source_from_checkpoint
from tests.errors import raises
from tests.fixture_types import Command, NetworkOf
from tritonkit.errors import ArtifactError, CheckFailedError, InputError
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.images.preprocess import Preprocess
from tritonkit.networks.backbones import architecture_of
from tritonkit.networks.network import Network, save_network
from tritonkit.repository.staging import staging_folder
from tritonkit.repository.verdict import Verdict
from tritonkit.spec import METADATA_KEY, ModelSpec, TaskSpec, TensorSpec, image_input
from tritonkit.triton.companions import decoder_of, ensemble_of
from tritonkit.triton.model_config import config_to_text, last_version, read_config, versions_loaded, versions_of

OTHER_LABELS = ("ant", "bee", "cow", "doe", "eel")


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec) -> Path:
    """Another network of the same name: five labels, larger images, fit `squash`."""
    torch.manual_seed(1)
    preprocess = Preprocess(height=48, width=48, fit="squash")
    changed = spec.model_copy(
        update={
            "architecture": architecture_of("test_resnet", 48, 48),
            "input": image_input(preprocess),
            "outputs": (TensorSpec(name="probabilities", dtype="FP32", shape=(5,)),),
            "preprocess": preprocess,
            "labels": OTHER_LABELS,
        }
    )
    path = tmp_path_factory.mktemp("other") / "pets.safetensors"
    save_network(path, Network(changed).eval())
    return path


@pytest.fixture(scope="session")
def two_versions_once(tmp_path_factory: pytest.TempPathFactory, exported_once: Path, other_checkpoint: Path) -> Path:
    """A repository whose `pets` has a version 2 with other labels, another size and a larger verified batch."""
    repository = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("two") / "repository"))
    export(ExportRequest(source=other_checkpoint, repository=repository, max_batch=16))
    return repository


@pytest.fixture
def pets(tmp_path: Path, two_versions_once: Path) -> Path:
    """A model with two versions that the test may change."""
    return Path(shutil.copytree(two_versions_once, tmp_path / "own" / "repository")) / "pets"


def loaded_versions(pets: Path) -> set[int]:
    return versions_loaded(read_config(pets), versions_of(pets))


def shared_state(pets: Path) -> tuple[int, tuple[str, ...], list[int], int]:
    """The content of the shared files: the number of labels, the labels, the image size, the largest batch."""
    config = read_config(pets)
    spec = ModelSpec.from_json(config.parameters[METADATA_KEY].string_value, origin="config.pbtxt")
    lines = (pets / "labels.txt").read_text().split()
    assert tuple(lines) == spec.labels == ModelSpec.from_json((pets / METADATA_KEY).read_text(), "model.json").labels
    return len(lines), spec.labels, list(config.input[0].dims), config.max_batch_size


def copy_newest(pets: Path) -> int:
    """Publish a copy of the newest version; returns its number."""
    with publication(pets.parent, pets.name) as prepared:
        shutil.copytree(pets / str(versions_of(pets)[-1]), prepared.version_folder, dirs_exist_ok=True)
    return prepared.version


def fail_verdict(pets: Path, version: int) -> None:
    path = pets / str(version) / Verdict.FILE
    document = {**json.loads(path.read_text()), "passed": False, "forced": True}
    path.unlink()
    path.write_text(json.dumps(document))


def test_promote_serves_an_older_version_with_its_own_shared_files(pets: Path) -> None:
    assert shared_state(pets) == (5, OTHER_LABELS, [48, 48, 3], 16)
    result = promote(pets, 1)
    assert (result.version, result.policy, result.policy_before, result.served_before) == (1, "1", "latest:1", (2,))
    assert loaded_versions(pets) == {1}
    assert shared_state(pets) == (3, ("cat", "dog", "bird"), [32, 32, 3], 8)
    assert last_version(read_config(pets)) == 2
    assert check_repository(pets.parent) == []
    assert not staging_folder(pets.parent).exists()


def test_promote_latest_follows_the_newest_again(pets: Path) -> None:
    before = (pets / "config.pbtxt").read_text()
    promote(pets, 1)
    assert promote(pets, None).policy == "latest:1"
    assert shared_state(pets) == (5, OTHER_LABELS, [48, 48, 3], 16)
    assert read_config(pets).version_policy.latest.num_versions == 1
    assert [line for line in before.splitlines() if line not in (pets / "config.pbtxt").read_text().splitlines()] == []
    assert check_repository(pets.parent) == []


def test_promotion_changes_decoder_and_ensemble(pets: Path) -> None:
    ensemble, decoder = (pets.parent / name(pets.name) for name in (ensemble_of, decoder_of))
    assert list(read_config(decoder).output[0].dims) == [48, 48, 3]
    result = promote(pets, 1)
    assert result.changed == ("pets", "pets_decode", "pets_encoded")
    assert list(read_config(decoder).output[0].dims) == [32, 32, 3]
    assert (list(read_config(ensemble).output[0].dims), read_config(ensemble).max_batch_size) == ([3], 8)


def test_promotion_keeps_tuned_settings(pets: Path) -> None:
    config = read_config(pets)
    config.instance_group[0].count = 3
    config.dynamic_batching.max_queue_delay_microseconds = 700
    (pets / "config.pbtxt").unlink()  # a hard link to the file of all copies
    (pets / "config.pbtxt").write_text(config_to_text(config))
    promote(pets, 1)
    tuned = read_config(pets)
    assert (tuned.instance_group[0].count, tuned.dynamic_batching.max_queue_delay_microseconds) == (3, 700)


def test_rollback_takes_the_newest_older_version_that_passed(pets: Path) -> None:
    copy_newest(pets)
    copy_newest(pets)
    fail_verdict(pets, 3)
    assert loaded_versions(pets) == {4}
    assert rollback(pets).version == 2
    assert rollback(pets).version == 1
    with raises(InputError, "repository.no_earlier_version"):
        rollback(pets)
    promote(pets, None)
    assert rollback(pets, force=True).version == 3
    fail_verdict(pets, 1)
    fail_verdict(pets, 2)
    with raises(InputError, "repository.no_passed_version"):
        rollback(pets)


def test_promote_refuses_when_the_verdict_failed(pets: Path) -> None:
    fail_verdict(pets, 1)
    before = (pets / "config.pbtxt").read_bytes()
    with raises(CheckFailedError, "verdict.not_passed", "version 1", "builder show", "--force"):
        promote(pets, 1)
    assert (pets / "config.pbtxt").read_bytes() == before
    assert promote(pets, 1, force=True).verdict == "FORCED"


def test_promote_refuses_a_missing_version(pets: Path) -> None:
    with raises(InputError, "repository.unknown_version"):
        promote(pets, 7)


def test_promote_refuses_while_another_builder_runs(pets: Path) -> None:
    with publication(pets.parent, "other"), raises(ArtifactError, "repository.locked"):
        promote(pets, 1)
    assert loaded_versions(pets) == {2}


def test_rollback_chooses_the_version_under_the_lock(pets: Path) -> None:
    promote(pets, 1)
    with publication(pets.parent, "other"), raises(ArtifactError, "repository.locked"):
        rollback(pets)  # the other error, no older version, could change meanwhile


def test_promotion_keeps_files_of_the_user(pets: Path) -> None:
    own = {"labels_de.txt": "Katze", "labels.old.txt": "kitten", "notes.md": "mine"}
    for name, text in own.items():
        (pets / name).write_text(text)
    promote(pets, 1)
    assert {name: (pets / name).read_text() for name in own} == own
    assert shared_state(pets)[1] == ("cat", "dog", "bird")


def test_label_files_are_removed_when_their_version_is_no_longer_served(
    tmp_path: Path, network_of: NetworkOf, spec: ModelSpec
) -> None:
    kind = TaskSpec(task="multiclass", labels=("cat", "dog"))
    heads = network_of(TaskSpec(task="heads", heads={"kind": kind, "size": kind})).spec
    for now, files in ((heads, {"labels.kind.txt", "labels.size.txt"}), (spec, {"labels.txt"})):
        SharedFiles(now, config_for(now, interface_of(now), 8, 1), None).write(tmp_path)
        assert {path.name for path in tmp_path.glob("labels*")} == files


def test_spec_is_read_from_the_artifact_when_a_version_was_published_without_one(pets: Path) -> None:
    (pets / "1" / METADATA_KEY).unlink()
    assert version_spec(pets, 1).labels == ("cat", "dog", "bird")
    promote(pets, 1)
    assert shared_state(pets)[1] == ("cat", "dog", "bird")


def test_promote_refuses_a_version_without_a_spec(pets: Path) -> None:
    import onnx

    for version in "12":
        (pets / version / METADATA_KEY).unlink()
        graph = onnx.load(pets / version / "model.onnx")
        del graph.metadata_props[:]
        (pets / version / "model.onnx").unlink()
        onnx.save(graph, pets / version / "model.onnx")
    assert shared_version(pets) == 2
    assert version_spec(pets, 2).labels == OTHER_LABELS
    with raises(ArtifactError, "repository.no_spec"):
        promote(pets, 1)
    assert loaded_versions(pets) == {2}


def test_export_does_not_change_the_shared_files_of_a_pinned_version(
    pets: Path, other_checkpoint: Path, command: Command
) -> None:
    promote(pets, 1)
    result = command(
        "builder", "export", other_checkpoint, "--repository", pets.parent, "--max-batch", 16, "--instances", 2
    )
    assert result.exit_code == 0, result.stderr
    assert "does not load version 3" in result.stdout
    assert "builder promote pets 3" in result.stdout
    assert "server reload" not in result.stdout
    assert (loaded_versions(pets), shared_state(pets)) == ({1}, (3, ("cat", "dog", "bird"), [32, 32, 3], 8))
    assert (last_version(read_config(pets)), read_config(pets).instance_group[0].count) == (3, 2)
    assert list(read_config(pets.parent / "pets_decode").output[0].dims) == [32, 32, 3]
    assert check_repository(pets.parent) == []
    promote(pets, None)
    assert shared_state(pets) == (5, OTHER_LABELS, [48, 48, 3], 16)


def test_export_warns_when_an_older_served_version_gets_a_larger_batch(
    exported_once: Path, checkpoint: Path, tmp_path: Path
) -> None:
    repository = Path(shutil.copytree(exported_once, tmp_path / "own" / "repository"))
    request = ExportRequest(source=checkpoint, repository=repository, max_batch=16, versions="all")
    result = export(request)
    assert result.warnings == ("max_batch_size 16 applies to version 1 too, which is served and was verified up to 8",)


@pytest.mark.parametrize("policy", ["all", "latest:2", "1,2"])
def test_export_is_refused_when_an_older_version_that_is_served_has_another_size(
    tmp_path: Path, exported_once: Path, other_checkpoint: Path, policy: str
) -> None:
    repository = Path(shutil.copytree(exported_once, tmp_path / "own" / "repository"))
    source, steps = source_from_checkpoint(other_checkpoint), list[str]()
    with pytest.raises(InputError) as raised:
        export(ExportRequest(source=source, repository=repository, versions=policy), steps.append)
    assert raised.value.code == "repository.versions_differ"
    assert f"version 1, which version policy {policy} " in str(raised.value)
    assert "image UINT8 [N, 32, 32, 3] -> probabilities FP32 [N, 3]; version 2 has image UINT8" in str(raised.value)
    assert "--versions latest:1" in str(raised.value)
    assert (steps, versions_of(repository / "pets")) == ([], [1])
    assert check_repository(repository) == []


def test_export_is_refused_when_the_current_policy_serves_both_versions(
    tmp_path: Path, exported_once: Path, checkpoint: Path, other_checkpoint: Path
) -> None:
    repository = Path(shutil.copytree(exported_once, tmp_path / "own" / "repository"))
    every = ExportRequest(source=checkpoint, repository=repository, versions="all")
    export(every)
    with raises(InputError, "repository.versions_differ"):
        export(ExportRequest(source=other_checkpoint, repository=repository))
    assert versions_of(repository / "pets") == [1, 2]
    (repository / "pets/1/model.onnx").unlink()
    (repository / "pets/1/model.onnx").write_bytes(b"damaged, which `builder check` tells of")
    assert export(every).version == 3


def test_export_is_refused_before_the_build_when_it_does_not_fit_the_pinned_version(
    pets: Path, other_checkpoint: Path
) -> None:
    promote(pets, 1)
    request = ExportRequest(source=other_checkpoint, repository=pets.parent, max_batch=16, preferred_batch=(16,))
    steps = list[str]()
    with raises(InputError, "config.preferred_batch", "16"):
        export(request, steps.append)
    assert (steps, versions_of(pets)) == ([], [1, 2])


def test_commands_print_the_served_version_and_the_next_step(pets: Path, command: Command) -> None:
    options = ("--repository", pets.parent)
    result = command("builder", "rollback", "pets", *options)
    assert result.exit_code == 0, result.stderr
    assert "pets: serves version 1 (pinned); before: 2 (policy latest:1)" in result.stdout
    assert "server reload pets pets_decode pets_encoded" in result.stdout
    listed = command("builder", "versions", "pets", *options)
    assert "Triton serves 1" in listed.stdout
    assert "builder promote pets latest" in listed.stdout
    document = json.loads(command("builder", "promote", "pets", "latest", *options, "--json").stdout)
    assert (document["version"], document["policy"], document["served_before"]) == (2, "latest:1", [1])
    for wrong in ("0", "newest", "-1", "../1"):
        refused = command("builder", "promote", "pets", "--", wrong)
        assert (refused.exit_code, "Traceback" in refused.stderr) == (2, False), wrong
    fail_verdict(pets, 1)
    assert command("builder", "promote", "pets", 1, *options).exit_code == 1


def test_triton_serves_the_promoted_version_after_a_reload(pets: Path) -> None:
    with serve(pets.parent) as triton:

        def answers_as(version: int) -> None:
            golden = Golden.load(pets / str(version) / GOLDEN_FILE)
            for name in ("pets_decode", "pets", "pets_encoded"):
                triton.load(name)
            answered, outputs = triton.infer("pets", golden.images[:2])
            assert answered == version
            assert np.allclose(outputs["probabilities"], golden.outputs["probabilities"][:2], atol=1e-4)

        answers_as(2)
        rollback(pets)
        answers_as(1)
        promote(pets, None)
        answers_as(2)
