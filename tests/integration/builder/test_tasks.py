"""Each task: a right artifact passes its verdict, and typical faults are refused with their cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from builder.onnx.export import onnx_from_network
from builder.pipeline import export
from builder.repository.lint import check_repository
from builder.request import ExportRequest
from builder.sources.base import NetworkSource
from builder.sources.images import builtin_golden
from builder.sources.outputs import with_output_options
from builder.verification.diagnosis import with_causes
from builder.verification.spec_check import spec_problems
from builder.verification.verifier import verify_runner
from builder.verification.verify import verify_artifact
from tests.errors import raises
from tests.faults import ChannelsSwapped, OnItsSide, as_faulty, problems
from tests.fixture_types import Command, NetworkOf
from tritonkit.comparison import compare
from tritonkit.errors import InputError, SpecError
from tritonkit.export_options import OutputOptions, VerificationOptions
from tritonkit.golden import Golden, pack_geometries
from tritonkit.images.preprocess import Geometry, ImageArray, Preprocess
from tritonkit.networks.network import Network, save_network
from tritonkit.repository.verdict import Verdict
from tritonkit.runtimes.base import Runner
from tritonkit.runtimes.pytorch import TorchRunner
from tritonkit.spec import METADATA_KEY, Lineage, ModelSpec, Outputs, TaskSpec
from tritonkit.tasks import task_of
from tritonkit.triton.model_config import read_config

MAX_BATCH = 4
TASK_SPECS = {
    "multilabel": TaskSpec(task="multilabel", labels=("sky", "grass", "cup"), thresholds={"cup": 0.4}),
    "embedding": TaskSpec(task="embedding", embedding_size=8),
    "segmentation": TaskSpec(task="segmentation", labels=("background", "stamp")),
    "heads": TaskSpec(
        task="heads",
        heads={
            "shape": TaskSpec(task="multiclass", labels=("round", "square", "long")),
            "colour": TaskSpec(task="multiclass", labels=("red", "green", "blue")),
            "tags": TaskSpec(task="multilabel", labels=("old", "wet")),
            "vector": TaskSpec(task="embedding", embedding_size=8),
        },
    ),
}
MEASURES = {
    "multilabel": {"label_set"},
    "embedding": {"cosine", "neighbour"},
    "segmentation": {"iou"},
    "heads": {"shape.top1", "colour.top1", "tags.label_set", "vector.cosine", "vector.neighbour"},
}
LABEL_FILES = {
    "multilabel": {"labels.txt"},
    "embedding": set(),
    "segmentation": {"labels.txt"},
    "heads": {"labels.shape.txt", "labels.colour.txt", "labels.tags.txt"},
}


class WithoutLastLayer(Network):
    """Outputs the raw values of the head."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return (logits,)


class MaskTransposed(Network):
    """Outputs a transposed mask."""

    def answers(self, logits: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.transpose(1, 2) for output in super().answers(logits))


class HeadsSwapped(Network):
    """Swaps the outputs of two heads."""

    def answers(self, logits: dict[str, Tensor]) -> tuple[Tensor, ...]:
        first, second, *others = super().answers(logits)
        return (second, first, *others)


class MaskDependsOnPlace(Network):
    """Marks more pixels at later batch positions."""

    def logits(self, images: Tensor) -> Tensor:
        raw = super().logits(images)
        more = torch.arange(raw.shape[0], dtype=raw.dtype)[:, None, None]
        return torch.stack([raw[:, 0], raw[:, 1] + more], dim=1)


class BorderDependsOnPlace(Runner):
    """Right inside the images; in the padding the mask depends on the batch position."""

    def __init__(self, network: Network) -> None:
        self.right, self.spec, self.origin = TorchRunner(network, "x"), network.spec, "x"

    def _infer(self, batch: ImageArray) -> Outputs:
        border = (batch == self.spec.preprocess.fill).all(axis=-1)
        places = np.arange(len(batch)).reshape(-1, 1, 1)
        masks = self.right.infer(batch)
        return {name: np.where(border, places == 1, mask).astype(np.uint8) for name, mask in masks.items()}


def verdict_of(artifact: Path, network: Network) -> Verdict:
    source = NetworkSource(artifact, None, "a test", network)
    return verify_artifact(artifact, source, MAX_BATCH, VerificationOptions())


@pytest.fixture(scope="module")
def networks(network_of: NetworkOf) -> dict[str, Network]:
    return {task: network_of(task_spec) for task, task_spec in TASK_SPECS.items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, Network]) -> Path:
    """A repository with a model of each task."""
    folder = tmp_path_factory.mktemp("tasks")
    for task, network in networks.items():
        save_network(folder / f"{task}.safetensors", network)
        request = ExportRequest(
            source=folder / f"{task}.safetensors", repository=folder / "repository", max_batch=MAX_BATCH
        )
        export(request)
    return folder / "repository"


def artifact_of(published: Path, task: str) -> Path:
    return published / f"asked_{task}/1/model.onnx"


def cut_at(network: Network, threshold: float) -> Network:
    """A network whose threshold differs from its spec."""
    shifted = with_output_options(network, OutputOptions(threshold=threshold))
    shifted.spec = network.spec
    return shifted


CAUSES = {"verdict.heads_swapped", "verdict.last_layer", "verdict.mask_transposed", "verdict.threshold_shifted"}


def with_spec(artifact: Path, spec: str | None, to: Path) -> Path:
    """A copy of an artifact with another spec, or without one."""
    model = onnx.load(artifact)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec} if spec is not None else {"made_by": "someone"})
    onnx.save(model, to)
    return to


@pytest.mark.parametrize("task", TASK_SPECS)
def test_verdict_passes_with_the_metrics_of_the_task_when_the_graph_is_right(published: Path, task: str) -> None:
    verdict = Verdict.model_validate_json((published / f"asked_{task}/1/verdict.json").read_bytes())
    assert verdict.passed, problems(verdict)
    for comparison in verdict.comparisons:
        assert set(comparison.agreement) == MEASURES[task]
        assert min(comparison.agreement.values()) > 0.999
    assert ("largest error" in verdict.summary()) == (task != "segmentation")
    assert all(measure in verdict.summary() for measure in MEASURES[task])


@pytest.mark.parametrize("task", TASK_SPECS)
def test_published_model_has_the_label_files_of_its_outputs(published: Path, task: str) -> None:
    model = published / f"asked_{task}"
    assert {path.name for path in model.glob("labels*")} == LABEL_FILES[task]
    label_files = {output.name: output.label_filename for output in read_config(model).output}
    if task == "heads":
        assert label_files == {name: f"labels.{name}.txt" if name != "vector" else "" for name in label_files}
        assert (model / "labels.colour.txt").read_text() == "red\ngreen\nblue\n"
    else:
        assert set(label_files.values()) == ({"labels.txt"} if task == "multilabel" else {""})
    assert check_repository(published) == []


@pytest.mark.parametrize(
    ("task", "plant", "cause"),
    [
        (
            "embedding",
            lambda n: as_faulty(WithoutLastLayer, n),
            ("verdict.last_layer: output embedding ", "verdict.answers: "),
        ),
        (
            "multilabel",
            lambda n: as_faulty(WithoutLastLayer, n),
            ("verdict.last_layer: output probabilities ", "verdict.answers: "),
        ),
        (
            "segmentation",
            lambda n: as_faulty(MaskTransposed, n),
            ("verdict.mask_transposed: mask ", "verdict.decisions: batch 1"),
        ),
        (
            "segmentation",
            lambda n: cut_at(n, 0.6),
            ("verdict.threshold_shifted: threshold is shifted: mask is cut at 0.6, expected 0.5",),
        ),
        ("heads", lambda n: as_faulty(HeadsSwapped, n), ("verdict.heads_swapped: ",)),
    ],
    ids=["not-normalised", "no-sigmoid", "transposed", "threshold", "heads"],
)
def test_verdict_names_the_fault_when_the_graph_has_one(
    networks: dict[str, Network], tmp_path: Path, task: str, plant: Callable[[Network], Network], cause: tuple[str, ...]
) -> None:
    network = networks[task]
    onnx_from_network(plant(network), tmp_path / "model.onnx")
    verdict = verdict_of(tmp_path / "model.onnx", network)
    assert not verdict.passed
    problem_text = problems(verdict)
    assert [part for part in cause if part not in problem_text] == [], problem_text
    assert [problem.code in CAUSES for problem in verdict.problems][:2] == [True, False], problem_text


def test_verdict_fails_when_a_threshold_is_shifted_in_the_artifacts_spec(
    networks: dict[str, Network], published: Path, tmp_path: Path
) -> None:
    spec = networks["multilabel"].spec
    shifted = spec.model_copy(update={"thresholds": {"cup": 0.9}})
    artifact = with_spec(artifact_of(published, "multilabel"), shifted.to_json(), tmp_path / "model.onnx")
    verdict = verdict_of(artifact, networks["multilabel"])
    assert [problem.code for problem in verdict.problems] == ["verdict.spec"]
    assert "thresholds.cup is 0.9, the checkpoint's 0.4" in problems(verdict)


def renamed_label(spec: ModelSpec) -> dict[str, object]:
    tags = spec.heads["tags"].model_copy(update={"labels": ("wet", "old"), "thresholds": {"old": 0.3}})
    return {"heads": {**spec.heads, "tags": tags}}


@pytest.mark.parametrize(
    ("task", "change", "expected"),
    [
        ("multilabel", lambda s: {"labels": ("sky", "cup", "grass")}, ["labels[1] is 'cup', the checkpoint's 'grass'"]),
        ("multilabel", lambda s: {"labels": ("sky", "cup")}, ["labels is '2 labels', the checkpoint's '3'"]),
        ("multilabel", lambda s: {"task": "multiclass"}, ["task is 'multiclass', the checkpoint's 'multilabel'"]),
        ("multilabel", lambda s: {"thresholds": {}}, ["thresholds.cup is 0.5, the checkpoint's 0.4"]),
        ("multilabel", lambda s: {"thresholds": {"cup": 0.4, "sky": 0.5}}, []),
        ("embedding", lambda s: {"embedding_size": 9}, ["embedding_size is 9"]),
        ("embedding", lambda s: {"preprocess": replace(s.preprocess, fit="pad")}, ["preprocess.fit is 'pad'"]),
        ("embedding", lambda s: {"outputs": (s.outputs[0].model_copy(update={"shape": (9,)}),)}, ["[N, 9]"]),
        ("segmentation", lambda s: {"probability": True}, ["probability is True, the checkpoint's False"]),
        ("heads", renamed_label, ["heads.tags.labels[0] is 'wet'", "heads.tags.thresholds.old is 0.3"]),
        ("heads", lambda s: {"heads": dict(reversed(s.heads.items()))}, ["heads is ['vector', 'tags',"]),
        ("heads", lambda s: {"name": "other", "lineage": Lineage(seed=3)}, []),
    ],
)
def test_spec_of_an_artifact_is_refused_when_it_differs(
    networks: dict[str, Network], published: Path, tmp_path: Path, task: str, change: object, expected: list[str]
) -> None:
    spec = networks[task].spec
    other = spec.model_copy(update=change(spec))  # type: ignore[operator]
    artifact = with_spec(artifact_of(published, task), other.to_json(), tmp_path / "model.onnx")
    problems_found = spec_problems(artifact, spec)
    assert len(problems_found) == len(expected)
    assert all(part in problem.message for part, problem in zip(expected, problems_found, strict=True)), problems_found


def test_spec_of_an_artifact_is_optional_but_refused_when_broken(
    networks: dict[str, Network], published: Path, tmp_path: Path
) -> None:
    artifact, spec = artifact_of(published, "embedding"), networks["embedding"].spec
    assert spec_problems(with_spec(artifact, None, tmp_path / "model.onnx"), spec) == []
    (broken,) = spec_problems(with_spec(artifact, "{", tmp_path / "model.onnx"), spec)
    assert broken.code == "verdict.spec"


def test_cause_is_found_when_the_mask_is_the_only_output(networks: dict[str, Network]) -> None:
    """Masks have no close values, so causes are ranked by the agreement of the masks."""
    network = networks["segmentation"]
    golden, reference = builtin_golden(network.spec.preprocess), TorchRunner(network, "x")
    for kind, cause in ((ChannelsSwapped, "verdict.channels_swapped"), (OnItsSide, "verdict.sides_swapped")):
        candidate = TorchRunner(as_faulty(kind, network), "x")
        verdict = verify_runner(reference, candidate, golden, 1, "fp32")
        found_problems = with_causes(verdict, network, candidate, golden, Path("none.plan")).problems
        assert [problem.code for problem in found_problems][:2] == [cause, "verdict.decisions"]


def test_verdict_fails_when_every_mask_is_the_same(networks: dict[str, Network]) -> None:
    network = with_output_options(networks["segmentation"], OutputOptions(threshold=0.9999))
    runner = TorchRunner(network, "x")
    verdict = verify_runner(runner, runner, builtin_golden(network.spec.preprocess), MAX_BATCH, "fp32")
    assert "verdict.reference_constant: " in problems(verdict)
    both = with_output_options(network, OutputOptions(probability=True))
    runner = TorchRunner(both, "x")
    assert verify_runner(runner, runner, builtin_golden(network.spec.preprocess), MAX_BATCH, "fp32").passed


def test_verdict_fails_when_a_mask_depends_on_the_batch_position(networks: dict[str, Network]) -> None:
    network = networks["segmentation"]
    candidate = TorchRunner(as_faulty(MaskDependsOnPlace, network), "x")
    golden = builtin_golden(network.spec.preprocess)
    problem_text = problems(verify_runner(TorchRunner(network, "x"), candidate, golden, MAX_BATCH, "fp32"))
    assert "verdict.batch_position: " in problem_text
    assert "verdict.decisions: batch 4" in problem_text
    assert "verdict.decisions: batch 1" not in problem_text


def test_verdict_passes_when_masks_differ_only_in_the_padding(networks: dict[str, Network]) -> None:
    """Each image has its own padding, which must follow the image in the reversed order."""
    spec = networks["segmentation"].spec
    padded = Preprocess(height=64, width=64, fit="pad", fill=(17, 201, 93))
    network = networks["segmentation"].with_spec(spec.model_copy(update={"preprocess": padded}))
    golden, reference, candidate = builtin_golden(padded), TorchRunner(network, "x"), BorderDependsOnPlace(network)
    verdict = verify_runner(reference, candidate, golden, MAX_BATCH, "fp32")
    assert verdict.passed, problems(verdict)
    assert min(comparison.agreement["iou"] for comparison in verdict.comparisons) == 1
    problem_text = problems(verify_runner(reference, candidate, replace(golden, geometries=None), MAX_BATCH, "fp32"))
    assert "batch_position: " in problem_text
    reversed_ = replace(golden, geometries=pack_geometries(reversed(golden.geometry_values or [])))
    assert not verify_runner(reference, candidate, reversed_, MAX_BATCH, "fp32").passed


def test_masks_are_compared_at_the_original_image_size(networks: dict[str, Network]) -> None:
    """An image of 80 x 20 in 64 x 64: differences in the padding do not count."""
    task = task_of(networks["segmentation"].spec)
    letterboxed = Geometry((80, 20), (0.0, 0.0, 80.0, 20.0), (0.0, 24.0, 64.0, 40.0))
    expected = np.zeros((1, 64, 64), np.uint8)
    expected[:, 24:40, :32] = 1
    border, inside = expected.copy(), expected.copy()
    border[:, :8] = 1
    inside[:, 24:40, 32:40] = 1
    closest = [
        compare("x", task, {"mask": expected}, {"mask": actual}, geometries).agreement["iou"]
        for actual, geometries in ((border, [letterboxed]), (border, None), (inside, [letterboxed]))
    ]
    assert closest[0] == 1
    assert closest[1] < 0.8
    # 40 columns of 80 before, 50 after: (40/50 + 30/40) / 2.
    assert closest[2] == pytest.approx((40 / 50 + 30 / 40) / 2)


def test_segmentation_is_exported_with_probability_and_another_threshold(
    command: Command, networks: dict[str, Network], tmp_path: Path
) -> None:
    """The golden sample of the trained model must be recognized although the output options differ."""
    network, checkpoint, repository = networks["segmentation"], tmp_path / "stamps.safetensors", tmp_path / "repository"
    save_network(checkpoint, network)
    sample = builtin_golden(network.spec.preprocess)
    masks = TorchRunner(network, "x").infer(sample.images)["mask"]
    truth = np.where(np.arange(64) < 8, 255, masks).astype(np.uint8)
    replace(sample, outputs={"mask": masks}, targets={"mask": truth}).save(tmp_path / "golden.npz")
    options = ["--threshold", "0.6", "--probability"]
    result = command(
        "builder", "export", checkpoint, "--repository", repository, "--name", "cut", "--max-batch", 2, *options
    )
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (repository / "cut").glob("labels*")] == ["labels.txt"]
    verdict = json.loads((repository / "cut/1/verdict.json").read_text())
    assert verdict["comparisons"][-1]["asked"] == "training"
    assert 0 < verdict["quality"]["artifact"]["foreground_iou"] < 1
    spec = ModelSpec.from_json((repository / "cut/model.json").read_text(), "x")
    assert (spec.thresholds, spec.probability) == ({"stamp": 0.6}, True)
    assert list(map(str, spec.outputs)) == ["mask UINT8 [N, 64, 64]", "probability FP32 [N, 64, 64]"]
    golden = Golden.load(repository / "cut/1/golden.npz")
    assert np.array_equal(golden.outputs["mask"], golden.outputs["probability"] >= 0.6)
    assert np.array_equal(golden.targets["mask"], truth)
    assert golden.geometry_values == sample.geometry_values
    assert check_repository(repository) == []

    artifact = repository / "cut/1/model.onnx"
    assert command("builder", "verify", artifact, "--against", checkpoint, "--max-batch", 2, *options).exit_code == 0
    refused = command("builder", "verify", artifact, "--against", checkpoint, "--max-batch", 2)
    assert refused.exit_code == 1
    assert "thresholds.stamp is 0.6, the checkpoint's 0.5" in refused.stdout
    assert "verdict.threshold_shifted: " in refused.stdout


@pytest.mark.parametrize(
    ("task_spec", "options", "code"),
    [
        (TASK_SPECS["embedding"], OutputOptions(threshold=0.4), "option.threshold_unused"),
        (TASK_SPECS["heads"].heads["shape"], OutputOptions(threshold=0.4), "option.threshold_unused"),
        (
            TaskSpec(task="segmentation", labels=("a", "b", "c")),
            OutputOptions(threshold=0.4),
            "option.threshold_unused",
        ),
        (TASK_SPECS["multilabel"], OutputOptions(probability=True), "option.probability_unused"),
        (TASK_SPECS["heads"], OutputOptions(probability=True), "option.probability_unused"),
        (
            TaskSpec(task="heads", heads={"vector": TASK_SPECS["embedding"]}),
            OutputOptions(threshold=0.4),
            "option.threshold_unused",
        ),
    ],
)
def test_output_options_are_refused_when_the_task_does_not_support_them(
    network_of: NetworkOf, task_spec: TaskSpec, options: OutputOptions, code: str
) -> None:
    with raises(InputError, code):
        with_output_options(network_of(task_spec), options)


def test_probability_is_refused_when_there_are_more_than_two_labels(network_of: NetworkOf) -> None:
    task_spec = TaskSpec(task="segmentation", labels=("a", "b", "c"))
    with raises(SpecError, "spec.probability_labels"):
        with_output_options(network_of(task_spec), OutputOptions(probability=True))


def test_threshold_changes_only_labels_that_have_one(networks: dict[str, Network]) -> None:
    options = {
        task: with_output_options(network, OutputOptions(threshold=0.3)).spec
        for task, network in networks.items()
        if task[0] != "e"
    }
    assert options["multilabel"].thresholds == dict.fromkeys(("sky", "grass", "cup"), 0.3)
    assert options["segmentation"].thresholds == {"stamp": 0.3}
    heads = options["heads"].heads
    assert {name: head.thresholds for name, head in heads.items() if head.thresholds} == {
        "tags": {"old": 0.3, "wet": 0.3}
    }
    assert networks["heads"].spec.heads["tags"].thresholds == {}


def test_check_names_the_file_when_the_labels_of_a_head_were_changed(published: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(published, tmp_path / "repository"))
    (repository / "asked_heads/labels.tags.txt").write_text("old\ndry\n")
    (finding,) = check_repository(repository)
    assert (finding.severity, Path(finding.path).name) == ("error", "labels.tags.txt")
    assert finding.code == "repository.labels_differ"
