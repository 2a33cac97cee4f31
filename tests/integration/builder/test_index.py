"""`builder index`: an embedder and a gallery become one verified model; what does not fit together is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from builder.artifacts import inspect_artifact
from builder.index.publish import index
from builder.index.request import IndexRequest
from builder.sources.search import graph
from builder.sources.search.approximate import build_index, choose_probes, gallery_in_index
from builder.sources.search.gallery import Gallery, read_items
from builder.sources.search.graph import check_size, gallery_in
from builder.sources.search.source import is_training_data
from tests.errors import error_codes, raises
from tests.fixture_types import Command, MakeNetwork, NetworkOf
from tests.galleries import EMBEDDING_SIZE, pixels, write_classes
from tritonkit.errors import DataError, InputError
from tritonkit.golden import GOLDEN_FILE, Golden
from tritonkit.networks.network import save_network
from tritonkit.repository.model_folder import VersionFolder
from tritonkit.repository.reexport_command import reexport_command
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.faiss import FaissRunner, search
from tritonkit.runtimes.formats import is_model_file
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner
from tritonkit.spec import ModelSpec, TaskSpec
from tritonkit.tasks.search import UNKNOWN

RATE = ("--false-accept", "0.2")
"""The smallest rate that 25 images can estimate."""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, network_of: NetworkOf) -> Path:
    path = tmp_path_factory.mktemp("embedder") / "hues.safetensors"
    network = network_of(TaskSpec(task="embedding", embedding_size=EMBEDDING_SIZE))
    save_network(path, network, network.spec.renamed("hues"))
    return path


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of five pictures."""
    return write_classes(tmp_path_factory.mktemp("gallery"), range(6), range(5))


@pytest.fixture(scope="module")
def published_once(tmp_path_factory: pytest.TempPathFactory, embedder: Path, gallery: Path) -> Path:
    repository = tmp_path_factory.mktemp("indexed") / "repository"
    request = IndexRequest(
        checkpoint=embedder, gallery=gallery, repository=repository, false_accept=0.2, neighbors=4, max_batch=8
    )
    index(request)
    return repository


@pytest.fixture
def repository(published_once: Path, tmp_path: Path) -> Path:
    """A copy of the repository with the model `hues_search`, version 1."""
    return Path(shutil.copytree(published_once, tmp_path / "served" / "repository"))


def test_model_finds_each_image_of_the_gallery_when_it_is_published(published_once: Path) -> None:
    folder = published_once / "hues_search" / "1"
    verdict, spec = Verdict.read_file(folder / Verdict.FILE), ModelSpec.read(folder)
    assert verdict.passed
    assert verdict.quality["checkpoint"] == verdict.quality["artifact"]
    assert {"recall@1", "recall@3"} == verdict.quality["artifact"].keys()
    assert spec is not None
    assert spec.gallery is not None
    assert (spec.task, spec.gallery.items, len(spec.labels)) == ("search", 30, 6)
    assert {"recall@1", "recall@3", "recall@5", "recall@10"} == spec.lineage.metrics.keys()
    outputs = OnnxRuntimeRunner(folder / "model.onnx").infer(np.stack([pixels(hue, 2) for hue in range(6)]))
    assert outputs["path"][:, 0].tolist() == [f"hue{hue}/2.png" for hue in range(6)]
    assert outputs["answer"][:, 0].tolist() == [f"hue{hue}" for hue in range(6)]
    assert (outputs["distance"][:, 0] < 1e-5).all()
    assert (published_once / "hues_search_encoded").is_dir()


def test_far_image_is_unknown_when_it_is_beyond_the_threshold(published_once: Path) -> None:
    runner = OnnxRuntimeRunner(published_once / "hues_search" / "1" / "model.onnx")
    assert runner.spec.gallery is not None
    rng = np.random.default_rng(0)
    outputs = runner.infer(rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    is_far = outputs["distance"][:, 0] >= np.float32(runner.spec.gallery.threshold)
    assert is_far.any()
    assert (outputs["answer"][is_far] == UNKNOWN).all()


def test_verification_fails_when_the_vectors_are_of_another_embedder(
    command: Command, repository: Path, embedder: Path, network_of: NetworkOf, tmp_path: Path
) -> None:
    artifact = repository / "hues_search" / "1" / "model.onnx"
    passed = command("builder", "verify", artifact, "--against", embedder, "--json")
    assert passed.exit_code == 0, passed.output
    network = network_of(TaskSpec(task="embedding", embedding_size=EMBEDDING_SIZE))
    next(network.parameters()).data.mul_(-1)
    save_network(tmp_path / "other.safetensors", network, network.spec)
    failed = command("builder", "verify", artifact, "--against", tmp_path / "other.safetensors", "--json")
    assert failed.exit_code == 1
    assert "verdict.spec" in {problem["code"] for problem in json.loads(failed.stdout)["problems"]}


def test_next_version_has_both_galleries_when_images_are_added(
    command: Command, repository: Path, embedder: Path, tmp_path: Path
) -> None:
    """The first of two additions at once is refused, or it would drop the images of the second."""
    added, other = (
        write_classes(tmp_path / "added", (6, 7), range(5)),
        write_classes(tmp_path / "other", (8,), range(1)),
    )
    (added / "hue0").mkdir()
    Image.fromarray(pixels(0, 0)).save(added / "hue0" / "known.png")
    answers = []

    def add_meanwhile(step: str) -> None:
        if step == "choosing the threshold":
            answers.append(command("builder", "index", embedder, added, "--add", "--repository", repository, "--json"))

    with raises(InputError, "repository.base_changed"):
        index(IndexRequest(checkpoint=embedder, gallery=other, repository=repository, add=True), add_meanwhile)
    (answer,) = answers
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert (document["published"]["version"], document["added"], document["classes"]) == (2, 10, 8)
    before, after = (
        gallery_in(onnx.load(repository / "hues_search" / version / "model.onnx"), "a test") for version in "12"
    )
    np.testing.assert_array_equal(after.vectors[:30], before.vectors)
    assert after.paths[30:].tolist() == [f"hue{hue}/{number}.png" for hue in (6, 7) for number in range(5)]
    assert "hue0/known.png" not in Golden.load(repository / "hues_search" / "2" / GOLDEN_FILE).targets["answer.path"]
    settings = ModelSpec.read(repository / "hues_search" / "2")
    assert settings is not None
    assert settings.gallery is not None
    assert (settings.gallery.neighbors, settings.gallery.false_accept) == (4, 0.2)
    assert command("builder", "check", repository).exit_code == 0
    again = command("builder", "index", embedder, added, "--add", "--repository", repository, "--json")
    assert (again.exit_code, error_codes(again)) == (2, {"index.nothing_new"})


def test_stored_paths_do_not_tell_where_the_images_lie(spec: ModelSpec, gallery: Path, tmp_path: Path) -> None:
    rows = "".join(f"{gallery}/hue{hue}/0.png,hue{hue}\n" for hue in range(2))
    (tmp_path / "table.csv").write_text(f"image_path,label\n{rows}")
    assert read_items(tmp_path / "table.csv", spec).paths.tolist() == ["hue0/0.png", "hue1/0.png"]


def test_threshold_is_that_of_the_held_out_classes_when_they_are_given(
    command: Command, embedder: Path, gallery: Path, tmp_path: Path
) -> None:
    others = write_classes(tmp_path / "others", range(6, 12), range(5))
    options = ("--repository", tmp_path / "repository", "--max-batch", "2", *RATE)
    answer = command("builder", "index", embedder, gallery, *options, "--held-out", others, "--data", others, "--json")
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert str(others) in document["gallery"]["held_out"]
    (measured,) = (
        metrics
        for name, metrics in document["published"]["verdict"]["quality"].items()
        if name.startswith("artifact on")
    )
    assert measured["false_accept"] == pytest.approx(
        5 / 30, abs=1e-6
    )  # rank floor(0.2 * 31) is 6, and nearer ones are accepted
    added = command("builder", "index", embedder, others, "--add", *options[:2], "--json")
    assert (added.exit_code, error_codes(added)) == (2, {"index.held_out_needed"})


def test_images_with_the_same_content_are_indexed_once(
    spec: ModelSpec, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(gallery, tmp_path / "copied"))
    shutil.copy(copied / "hue0" / "0.png", copied / "hue0" / "copy.png")
    assert read_items(copied, spec).paths.tolist() == read_items(gallery, spec).paths.tolist()
    assert str(copied / "hue0" / "copy.png") in capsys.readouterr().err
    shutil.copy(copied / "hue0" / "0.png", copied / "hue1" / "copy.png")
    with raises(DataError, "data.contradicting_truths"):
        read_items(copied, spec)


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory, gallery: Path) -> Path:
    """A folder of galleries that cannot be used, and `good`."""
    root = tmp_path_factory.mktemp("galleries")
    shutil.copytree(gallery, root / "good")
    (root / "empty").mkdir()
    shutil.copytree(gallery, root / "broken")
    (root / "broken" / "hue0" / "0.png").write_bytes(b"no picture")
    shutil.copytree(gallery, root / "reserved")
    (root / "reserved" / "hue5").rename(root / "reserved" / UNKNOWN)
    write_classes(root / "parts" / "train", range(2), range(2))
    write_classes(root / "relabelled", (9,), range(1))
    Image.fromarray(pixels(0, 0)).save(root / "relabelled" / "hue9" / "0.png")
    write_classes(root / "taken", (0,), range(1))
    Image.fromarray(pixels(0, 77)).save(root / "taken" / "hue0" / "0.png")
    return root


@pytest.mark.parametrize(
    ("name", "options", "codes"),
    [
        ("missing", (), "data.invalid data.not_found"),
        ("empty", (), "data.invalid data.no_class_folders"),
        ("broken", (), "data.invalid data.image_unreadable"),
        ("reserved", (), "data.invalid index.reserved_label"),
        ("parts", (), "index.parts"),
        ("good", (*RATE, "--neighbors", "31"), "index.too_many_neighbors"),
        ("good", (), "index.too_few_held_out"),
        ("good", (*RATE, "--held-out", "good"), "index.held_out_known"),
        ("good", (*RATE, "--name", "no/name"), "spec.name"),
        ("good", ("--false-accept", "1"), "option.too_large"),
        ("good", ("--add",), "index.not_published"),
    ],
)
def test_gallery_is_refused_when_it_cannot_be_used(
    command: Command, embedder: Path, galleries: Path, tmp_path: Path, name: str, options: tuple[str, ...], codes: str
) -> None:
    words = [galleries / word if word == "good" else word for word in options]
    answer = command(
        "builder", "index", embedder, galleries / name, *words, "--repository", tmp_path / "none", "--json"
    )
    assert (answer.exit_code, error_codes(answer)) == (2, set(codes.split())), answer.output
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("name", "code"), [("relabelled", "index.other_label"), ("taken", "index.path_taken")])
def test_images_are_not_added_when_they_contradict_the_gallery(
    command: Command, embedder: Path, galleries: Path, published_once: Path, name: str, code: str
) -> None:
    arguments = (embedder, galleries / name, "--add", "--repository", published_once, "--json")
    answer = command("builder", "index", *arguments)
    assert (answer.exit_code, error_codes(answer)) == (2, {code}), answer.output
    assert [path.name for path in sorted((published_once / "hues_search").glob("[0-9]*"))] == ["1"]


def test_training_data_is_recognised_by_the_lineage(spec: ModelSpec, gallery: Path, tmp_path: Path) -> None:
    assert not is_training_data(spec, gallery)
    lineage = spec.lineage.model_copy(update={"config": {"data": {"path": str(gallery)}}})
    trained = spec.model_copy(update={"lineage": lineage})
    assert is_training_data(trained, gallery)
    assert is_training_data(trained, gallery / "hue0")
    assert not is_training_data(trained, tmp_path)


def test_model_is_refused_when_it_gives_no_vectors(
    command: Command, gallery: Path, make_network: MakeNetwork, tmp_path: Path
) -> None:
    save_network(tmp_path / "pets.safetensors", make_network("test_resnet"))
    answer = command("builder", "index", tmp_path / "pets.safetensors", gallery, *RATE, "--json")
    assert (answer.exit_code, error_codes(answer)) == (2, {"index.no_embedder"})


def test_images_are_not_added_when_the_embedder_is_another_one(
    command: Command, repository: Path, network_of: NetworkOf, tmp_path: Path
) -> None:
    network = network_of(TaskSpec(task="embedding", embedding_size=EMBEDDING_SIZE))
    next(network.parameters()).data.mul_(1.01)
    save_network(tmp_path / "hues.safetensors", network, network.spec.renamed("hues"))
    added = write_classes(tmp_path / "added", (6, 7), range(3))
    answer = command(
        "builder", "index", tmp_path / "hues.safetensors", added, "--add", "--repository", repository, "--json"
    )
    assert (answer.exit_code, error_codes(answer)) == (2, {"index.other_embedder"})


def test_images_are_not_added_when_the_gallery_was_changed(
    command: Command, repository: Path, embedder: Path, tmp_path: Path
) -> None:
    folder = repository / "hues_search" / "1"
    model = onnx.load(folder / "model.onnx")
    vectors = next(tensor for tensor in model.graph.initializer if tensor.name == "gallery.vectors")
    vectors.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(vectors), vectors.name))
    onnx.save(model, folder / "model.onnx")
    added = write_classes(tmp_path / "added", (6, 7), range(3))
    answer = command("builder", "index", embedder, added, "--add", "--repository", repository, "--json")
    assert error_codes(answer) == {"index.changed_gallery"}


def test_gallery_is_refused_when_it_does_not_fit_into_one_file() -> None:
    with raises(InputError, "index.too_large"):
        check_size(1_100_000, 512, "faces_search")
    check_size(1_000_000, 512, "faces_search")
    with raises(InputError, "index.too_large", "network and paths"):
        check_size(1_000_000, 512, "faces_search", others=200_000_000)


@pytest.fixture(scope="module")
def near_once(tmp_path_factory: pytest.TempPathFactory, embedder: Path, gallery: Path) -> Path:
    """The repository of a model whose gallery is in a FAISS index, because one ONNX file would be too large for it."""
    repository = tmp_path_factory.mktemp("near") / "repository"
    with pytest.MonkeyPatch.context() as limit:
        limit.setattr(graph, "MAX_BYTES", 1000)
        index(IndexRequest(checkpoint=embedder, gallery=gallery, repository=repository, false_accept=0.2, neighbors=4))
    return repository


@pytest.fixture
def near(near_once: Path, tmp_path: Path) -> Path:
    """A copy of the artifact, version 1 of `hues_search`."""
    copied = Path(shutil.copytree(near_once, tmp_path / "near" / "repository"))
    return copied / "hues_search" / "1" / "model.faiss"


def test_gallery_is_in_an_index_when_it_does_not_fit_into_one_file(
    command: Command, near: Path, embedder: Path
) -> None:
    verdict, info = Verdict.read_file(near.with_name(Verdict.FILE)), inspect_artifact(near)
    assert (verdict.passed, verdict.format) == (True, "faiss")
    assert info.spec is not None
    assert info.spec.gallery is not None
    assert info.spec.gallery.approximate_recall == 1.0
    outputs = FaissRunner(near).infer(np.stack([pixels(hue, 2) for hue in range(6)]))
    assert outputs["path"][:, 0].tolist() == [f"hue{hue}/2.png" for hue in range(6)]
    assert outputs["answer"][:, 0].tolist() == [f"hue{hue}" for hue in range(6)]
    assert command("builder", "verify", near, "--against", embedder).exit_code == 0
    assert command("builder", "check", near.parents[2]).exit_code == 0


def test_records_of_a_version_are_no_model_files() -> None:
    """Only model files must be there to serve a version."""
    assert [is_model_file(name) for name in ("model.items.npz", "model.faiss", "golden.npz", "sketch.npz")] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    ("fixture", "option"), [("near_once", "--approximate"), ("published_once", "--no-approximate")]
)
def test_command_to_publish_again_is_that_of_an_index(
    request: pytest.FixtureRequest, fixture: str, option: str
) -> None:
    repository: Path = request.getfixturevalue(fixture)
    command = reexport_command(VersionFolder(repository / "hues_search" / "1"), repository)
    assert command == f"builder index CHECKPOINT GALLERY {option} --name hues_search --repository {repository}"


def test_rate_is_not_the_advice_when_classes_are_too_few(command: Command, embedder: Path, tmp_path: Path) -> None:
    gallery = write_classes(tmp_path / "gallery", range(2), range(15))
    answer = command("builder", "index", embedder, gallery, *RATE, "--repository", tmp_path / "none")
    assert "30 images of 2 classes" in answer.stderr
    assert "or choose a rate" not in answer.stderr


def test_index_gets_the_new_items_when_images_are_added(
    command: Command, near: Path, embedder: Path, tmp_path: Path
) -> None:
    added = write_classes(tmp_path / "added", (6,), range(5))
    answer = command("builder", "index", embedder, added, "--add", "--repository", near.parents[2], "--json")
    assert answer.exit_code == 0, answer.output
    (before, _), (after, nearest) = (gallery_in_index(near.parents[1] / version / near.name) for version in ("1", "2"))
    np.testing.assert_array_equal(after.vectors[:30], before.vectors)
    assert after.paths[30:].tolist() == [f"hue6/{number}.png" for number in range(5)]
    assert nearest.ntotal == 35


def test_verification_fails_when_the_index_lost_items(command: Command, near: Path, embedder: Path) -> None:
    shuffled, found = faiss.read_index(str(near)), gallery_in_index(near)[0]
    shuffled.reset()
    shuffled.add(np.ascontiguousarray(found.vectors[::-1]))
    faiss.write_index(shuffled, str(near))
    failed = command("builder", "verify", near, "--against", embedder, "--json")
    assert failed.exit_code == 1
    assert "verdict.spec" in {problem["code"] for problem in json.loads(failed.stdout)["problems"]}


def test_index_is_refused_when_its_files_are_damaged(command: Command, near: Path, embedder: Path) -> None:
    items, content = near.with_suffix(".items.npz"), near.read_bytes()
    texts = items.read_bytes()
    with np.load(items) as arrays:
        parts = {name: arrays[name] for name in arrays}

    def codes() -> set[str]:
        answer = command("builder", "verify", near, "--against", embedder, "--json")
        assert answer.exit_code == 2, answer.output
        return error_codes(answer)

    near.write_bytes(content[: len(content) // 2])
    assert codes() == {"faiss.unreadable"}
    faiss.write_index(faiss.IndexFlatIP(EMBEDDING_SIZE), str(near))
    assert codes() == {"faiss.other_index"}
    near.write_bytes(content)
    np.savez(items, **{**parts, "numbers": parts["numbers"][:20], "paths": parts["paths"][:20]})
    assert codes() == {"faiss.other_items"}
    np.savez(items, **{**parts, "numbers": parts["numbers"] + 6})
    assert codes() == {"faiss.damaged"}
    np.savez_compressed(items, **parts)
    assert codes() == {"faiss.damaged"}
    np.savez(items, **{**parts, "embedder": np.zeros(99, np.uint8)})
    assert codes() == {"onnx.unreadable"}
    assert command("builder", "check", near.parents[2]).exit_code == 1
    items.write_bytes(texts[: len(texts) // 2])
    assert codes() == {"faiss.damaged"}
    items.unlink()
    assert codes() == {"faiss.no_items"}


def test_kind_of_search_is_kept_when_a_version_is_published(
    command: Command, near_once: Path, published_once: Path, embedder: Path, gallery: Path
) -> None:
    """It is refused before the gallery is embedded."""
    for repository, options in ((near_once, ("--no-approximate",)), (published_once, ("--approximate",))):
        for more in ((), ("--add",)):
            words = (*options, *more, "--repository", repository, "--json")
            answer = command("builder", "index", embedder, gallery, *words)
            assert (answer.exit_code, error_codes(answer)) == (2, {"index.other_search"})
            assert "embedding" not in answer.stderr


def test_format_of_an_index_is_refused_when_the_model_has_no_gallery(command: Command, embedder: Path) -> None:
    answer = command("builder", "export", embedder, "--format", "faiss", "--json")
    assert (answer.exit_code, error_codes(answer)) == (2, {"faiss.no_search"})


def classes_of_vectors(count: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors of tight classes, as metric learning gives them, float32 [count, 64]."""
    basis = np.random.default_rng(1).standard_normal((8, 64))
    vectors = np.tanh(rng.standard_normal((count // 25, 8))).repeat(25, axis=0) @ basis
    vectors += 0.05 * rng.standard_normal(vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_index_finds_the_items_that_are_nearest_to_images_of_other_classes() -> None:
    rng = np.random.default_rng(0)
    vectors, others = classes_of_vectors(5000, rng), classes_of_vectors(500, rng)
    names = np.array([f"item{number}" for number in range(5000)])
    gallery = Gallery(vectors, names, names)
    built = build_index(gallery)
    assert choose_probes(built, gallery, 10, others) >= 0.998
    assert 1 < built.nprobe < built.nlist
    found, _ = search(built, others, 10)
    exact, _ = gallery.search(others, 10)
    assert np.mean(found <= exact[:, -1:] + 1e-5) > 0.99


def test_all_lists_are_searched_when_those_that_are_visited_have_too_few() -> None:
    vectors = np.repeat(np.eye(8, dtype=np.float32), 40, axis=0)
    names = np.array([f"item{number}" for number in range(320)])
    built = build_index(Gallery(vectors, names, names))
    built.nprobe = 1
    assert (built.search(vectors[:1], 50)[1] < 0).any()
    distances, items = search(built, vectors[:1], 50)
    assert distances[0].tolist() == [0.0] * 40 + [1.0] * 10
    assert len(set(items[0].tolist())) == 50


def test_sample_of_the_verdict_names_its_images_when_it_is_stored(published_once: Path) -> None:
    golden = Golden.load(published_once / "hues_search" / "1" / GOLDEN_FILE)
    assert golden.targets["answer.path"].tolist() == golden.outputs["path"][:, 0].tolist()


def test_fingerprint_changes_when_labels_change() -> None:
    vectors, paths = np.eye(2, dtype=np.float32), np.array(["a", "b"])
    first, second = (Gallery(vectors, np.array(labels), paths) for labels in (["x", "y"], ["x", "z"]))
    assert first.fingerprint != second.fingerprint
