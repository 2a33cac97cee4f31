"""Pruned models from end to end: trained, exported with a passed verdict, and served with the same answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from tests.errors import error_codes
from tests.fixture_types import Command
from tests.integration.train.conftest import CASES, golden_of_run
from tests.serving import options_for, serving
from train.config.loading import load_config
from train.config.pruning_functions import CHANNELS, ZEROS
from train.engine.fit import FitResult, fit, resume
from tritonkit.checkpoint import read_spec, read_weights
from tritonkit.comparison import FP32_LIMITS, compare
from tritonkit.networks.network import load_network
from tritonkit.runtimes import open_artifact
from tritonkit.tasks import task_of
from tritonkit.triton.client import TritonClient
from tritonkit.triton.runner import TritonRunner

WriteConfig = Callable[..., Path]
TASKS = ("multiclass", "multilabel", "embedding", "segmentation")
BLOCKS = ("layer1", "layer2", "layer3", "layer4")
"""A function of its own prunes each block; for segmentation, the decoder in place of the last."""


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def zero_shares(checkpoint: Path) -> dict[str, float]:
    """The share of zeros in each weight with several axes."""
    weights = read_weights(checkpoint)
    return {key: float((array == 0).mean()) for key, array in weights.items() if array.ndim > 1}


def is_pruned(key: str) -> bool:
    """Whether a weight is one of a layer that is not the last."""
    return "fc." not in key and "segmentation_head" not in key


@pytest.fixture(scope="module")
def prune(
    copy_digits: Callable[..., Path],
    facts_about_digits: Callable[..., list[dict[str, str]]],
    make_masks: Callable[..., Path],
    write_table: Callable[..., Path],
    write_config: WriteConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., FitResult]:
    """Train a model of a task for an epoch with a section `pruning`."""
    root = tmp_path_factory.mktemp("pruned")
    rows = [{k: v for k, v in row.items() if k != "digit"} for row in facts_about_digits(6)]
    make_masks(root / "masks", count=12)
    data: dict[str, dict[str, Any]] = {
        "multiclass": {"path": str(copy_digits(root / "digits", count=20))},
        "multilabel": {"path": str(write_table(root / "facts.csv", rows))},
        "embedding": {"path": str(copy_digits(root / "classes", labels="01234678", count=6))},
        "segmentation": {"path": str(root / "masks" / "images"), "masks": str(root / "masks" / "masks")},
    }

    def trained(task: str, name: str, pruning: object, **changes: object) -> FitResult:
        case = {key: value for key, value in CASES.get(task, {}).items() if key != "per_class"}
        parts = {"val_ratio": 0.25, "test_ratio": 0.25}
        keys = {"task": task, **case, "name": name, "pruning": pruning, "data": data[task] | parts, **changes}
        return fit(load_config(write_config(root / f"{name}.yaml", root, **keys)))

    return trained


@pytest.mark.drill
@pytest.mark.usefixtures("own_state")
def test_pruned_models_of_all_tasks_answer_from_triton_as_they_were_trained(
    prune: Callable[..., FitResult], command: Command, tmp_path: Path
) -> None:
    """For each task one model that lost channels, and then weights by each of the four functions in another block."""
    checkpoints = {}
    for task in TASKS:
        blocks = (*BLOCKS[:3], "decoder") if task == "segmentation" else BLOCKS
        sections = [{"function": each, "layers": [f"*{name}"]} for name, each in zip(blocks, ZEROS, strict=True)]
        weights = str(prune(task, f"{task}-whole", []).checkpoint)
        model = {**CASES.get(task, {}).get("model", {"name": "test_resnet"}), "weights": weights}
        pruned = prune(task, task, [{"function": CHANNELS}, *sections], model=model).checkpoint
        assert pruned.stat().st_size < 0.45 * Path(weights).stat().st_size
        shares = zero_shares(pruned)
        zeros = {key: share for key, share in shares.items() if any(f"{name}." in key for name in blocks)}
        assert zeros
        assert {key: share for key, share in shares.items() if share} == pytest.approx(
            dict.fromkeys(zeros, 0.5), abs=0.05
        )
        options = ("--repository", tmp_path, "--max-batch", 8, "--no-encoded", "--json")
        assert document(command("builder", "export", pruned, *options))["verdict"]["passed"]
        checkpoints[task] = pruned
    with serving(options_for(tmp_path)) as server, TritonClient(server.options.grpc_url) as client:
        for name, checkpoint in checkpoints.items():
            golden, task_of_model = golden_of_run(checkpoint), task_of(read_spec(checkpoint))
            images = golden.images[:8]
            with open_artifact(checkpoint) as reference:
                expected = reference.infer(images)
            served = TritonRunner(client, name).infer(images)
            comparison = compare(name, task_of_model, expected, served, None, FP32_LIMITS)
            assert comparison.is_within(FP32_LIMITS), name
            assert comparison.decisions_kept >= FP32_LIMITS.decisions, name


def test_best_epoch_is_pruned_when_weights_become_zero_in_between(prune: Callable[..., FitResult]) -> None:
    """An average of the weights is pruned too, and an epoch before the full amount is never the best."""
    result = prune("multiclass", "averaged", {"function": "ln_structured", "amount": 0.5}, epochs=4, ema=0.9)
    for name in ("best", "last"):
        shares = zero_shares(result.run / f"{name}.safetensors")
        assert all(share == (0.5 if is_pruned(key) else 0) for key, share in shares.items())
    assert not {"mask", "orig"} & {key.rpartition("_")[2] for key in read_weights(result.checkpoint)}
    states = [path.name for path in (result.run / "lightning").glob("best-*")]
    assert set(states) <= {f"best-epoch={epoch}.ckpt" for epoch in (1, 2, 3)}


def test_compressed_model_is_a_run_that_every_command_opens(
    trained: FitResult, command: Command, tmp_path: Path
) -> None:
    words = ("--no-serve", "--output", tmp_path / "runs", "augment.enabled=false", "workers=0")
    report = document(command("train", "compress", trained.checkpoint, "--epochs", 2, *words, "--json"))
    small = Path(report["checkpoint"])
    before, after = report["before"], report["after"]
    assert after["parameters"] < 0.3 * before["parameters"]
    assert after["file_bytes"] == small.stat().st_size < 0.3 * before["file_bytes"]
    assert before["metrics"] == document(command("train", "test", trained.checkpoint, "--json"))["metrics"]
    assert after["metrics"] == document(command("train", "test", small, "--json"))["metrics"]
    assert after["metrics"]["accuracy"] > 0.6
    assert report["speed_up"] is None
    lineage = read_spec(small).lineage
    assert (lineage.parent, lineage.data_fingerprint) == (
        str(trained.checkpoint), read_spec(trained.checkpoint).lineage.data_fingerprint,
    )  # fmt: skip
    options = ("--repository", tmp_path / "repository", "--max-batch", 4, "--no-encoded", "--json")
    published = document(command("builder", "export", small, "--onnx", "fp16", *options))
    assert published["verdict"]["passed"]
    picture = next(csv.DictReader((Path(report["run"]) / "splits" / "test.csv").open()))["image_path"]
    answers = [
        document(command("client", "infer", picture, "--from", source, "--json"))["rows"][0]["label"]
        for source in (small, published["artifact"])
    ]
    assert answers[0] == answers[1]
    # Channels stay removed in a run that starts from it, and in one that is resumed.
    again = document(command("train", "compress", small, "--epochs", 1, "--sparsity", 0.25, *words, "--json"))
    assert again["after"]["parameters"] < 0.7 * after["parameters"]
    run = Path(again["run"])
    finished = read_weights(run / "last.safetensors")
    for path in run.glob("*.safetensors"):
        path.unlink()
    resumed = resume(run)
    assert sum(each.numel() for each in load_network(resumed.checkpoint).parameters()) == again["after"]["parameters"]
    for key, array in read_weights(run / "last.safetensors").items():
        np.testing.assert_array_equal(array, finished[key])


@pytest.mark.drill
@pytest.mark.usefixtures("own_state")
def test_compression_reports_served_images_per_second_when_triton_serves_both(
    trained: FitResult, command: Command, tmp_path: Path
) -> None:
    words = ("--rounds", 1, "--window-s", 0.3, "--epochs", 1, "--output", tmp_path, "workers=0")
    result = command("train", "compress", trained.checkpoint, "--method", "l1_unstructured", *words)
    assert result.exit_code == 0, result.output
    assert "served images per second" in result.stdout
    assert "zeros" in result.stdout
    assert Path(result.stdout.splitlines()[-1]).is_file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--sparsity", "1.0"], "option.sparsity"),
        (["--method", "l2_structured"], "option.unknown_method"),
        (["--layers", "layer9"], "pruning.no_layers"),
        (["--layers", "fc"], "pruning.nothing_removed"),
        (["optimizer.lr=fast"], "config.value"),
        (["--data", "nowhere"], "data.not_found"),
        (["--output", "/proc/nowhere"], "output.not_writable"),
    ],
)
def test_compression_is_refused_before_it_trains(
    trained: FitResult, command: Command, tmp_path: Path, words: list[str], code: str
) -> None:
    output = [] if "--output" in words else ["--output", tmp_path]
    result = command("train", "compress", trained.checkpoint, *output, *words, "--json")
    assert result.exit_code == 2, result.output
    assert code in error_codes(result)
    assert not list(tmp_path.rglob("*.ckpt"))
