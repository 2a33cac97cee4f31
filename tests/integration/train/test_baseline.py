"""`train baseline`: logistic regression on frozen features, as a run and as a served model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixture_types import Command, Ports
from train.config.loading import load_config
from train.engine.fit import FitResult
from tritonkit.checkpoint import read_spec, read_weights
from tritonkit.golden import golden_of_checkpoint

WriteConfig = Callable[..., Path]


def test_baseline_keeps_the_backbone_and_writes_a_run_when_heads_are_classifiers(
    command: Command,
    trained: FitResult,
    facts_about_digits: Callable[..., list[dict[str, str]]],
    write_table: Callable[..., Path],
    tmp_path: Path,
    write_config: WriteConfig,
) -> None:
    rows = [
        {
            "image_path": row["image_path"],
            "digit": row["digit"],
            "facts": "|".join(name for name in ("round", "odd") if row[name] == "1") or "|",
        }
        for row in facts_about_digits(12)
    ]
    heads = {"digit": {"task": "multiclass", "loss": {"name": "cross_entropy", "class_weights": "balanced"}}}
    config = write_config(
        tmp_path / "config.yaml",
        write_table(tmp_path / "facts.csv", rows),
        task="heads",
        heads={**heads, "facts": {"task": "multilabel"}},
        model={"name": "test_resnet", "weights": str(trained.checkpoint)},
    )
    result = command("train", "baseline", config, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    run, checkpoint = Path(document["run"]), Path(document["checkpoint"])
    assert document["metrics"]["val_digit.accuracy"] > 0.5
    assert document["metrics"]["val_facts.map"] > 0.6
    assert document["warnings"] == []
    before, after = read_weights(trained.checkpoint), read_weights(checkpoint)
    same = {key for key, array in before.items() if key in after and np.array_equal(after[key], array)}
    assert {key for key in before if "num_batches_tracked" not in key} - same == {
        "backbone.fc.weight",
        "backbone.fc.bias",
    }
    assert (run / "splits" / "test.csv").is_file()
    assert {path.name for path in run.glob("*.png")} == {
        "predictions.png",
        "confusion.digit.png",
        "confusion.facts.png",
    }
    assert result.stderr.count("by regularisation C") == 2
    measured = command("train", "test", checkpoint, "--json")
    assert json.loads(measured.stdout)["metrics"]["digit.accuracy"] == document["metrics"]["test_digit.accuracy"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"task": "embedding"}, "baseline.task"),
        ({"task": "segmentation"}, "baseline.task"),
        ({"task": "heads", "heads": {"a": {"task": "multiclass"}, "b": {"task": "embedding"}}}, "baseline.task"),
        ({"devices": 2}, "baseline.keys"),
        ({"quantization": {}, "model": {"name": "test_resnet", "pretrained": True}}, "baseline.keys"),
        ({"model": {"name": "torchvision/squeezenet1_1"}, "image": {"size": 64}}, "baseline.no_linear_head"),
    ],
)
def test_baseline_is_refused_before_a_run_when_there_is_no_linear_classifier(
    command: Command, folder: Path, tmp_path: Path, write_config: WriteConfig, changes: dict[str, object], code: str
) -> None:
    result = command("train", "baseline", write_config(tmp_path / "config.yaml", folder, **changes), "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == code
    assert not (tmp_path / "runs").exists()


def test_baseline_is_refused_when_the_features_are_not_finite(
    command: Command, trained: FitResult, folder: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    weights = {
        key.removeprefix("backbone."): torch.from_numpy(array)
        for key, array in read_weights(trained.checkpoint).items()
    }
    weights["conv1.0.weight"][:] = np.nan
    torch.save(weights, tmp_path / "broken.pth")
    model = {"name": "test_resnet", "weights": str(tmp_path / "broken.pth")}
    result = command("train", "baseline", write_config(tmp_path / "config.yaml", folder, model=model), "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "baseline.features_not_finite")


def test_every_ignored_key_is_named_and_the_batch_size_stored_when_a_baseline_is_fitted(
    command: Command, trained: FitResult, folder: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    model = {"name": "test_resnet", "weights": str(trained.checkpoint)}
    config = write_config(tmp_path / "config.yaml", folder, model=model, batch_size="auto")
    ignored = ["devices=2", "num_nodes=2", "pruning.function=l1_unstructured", "quantization.activations=int8"]
    message = json.loads(command("train", "baseline", config, *ignored, "--json").stdout)["error"]["message"]
    assert message.startswith("devices, num_nodes, pruning, quantization: ")
    result = command("train", "baseline", config, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert load_config(Path(document["run"]) / "config.yaml").batch_size == 32
    assert read_spec(Path(document["checkpoint"])).lineage.config["batch_size"] == 32


@pytest.mark.drill
@pytest.mark.usefixtures("own_state")
def test_served_baseline_answers_as_its_checkpoint_when_exported(
    command: Command, folder: Path, tmp_path: Path, write_config: WriteConfig, free_ports: Ports
) -> None:
    repository, ports = tmp_path / "repository", free_ports()
    config = write_config(
        tmp_path / "config.yaml",
        folder,
        model={"name": "test_vit"},
        export={"onnx": "fp32", "repository": str(repository)},
    )
    result = command("train", "baseline", config, "--json")
    assert result.exit_code == 0, result.output
    fitted = json.loads(result.stdout)
    assert any("random weights" in warning for warning in fitted["warnings"])
    assert read_spec(Path(fitted["checkpoint"])).lineage is not None
    assert golden_of_checkpoint(Path(fitted["checkpoint"])) is not None
    url = f"127.0.0.1:{ports[ports.index('--grpc-port') + 1]}"
    up = command("server", "up", "--repository", repository, *ports)
    assert up.exit_code == 0, up.output
    try:
        measured = [
            json.loads(command("train", "test", fitted["checkpoint"], *options, "--json").stdout)["metrics"]
            for options in ((), ("--from", fitted["exported"]), ("--url", url))
        ]
        checked = command("client", "check", "tiny", "--url", url, "--against", fitted["checkpoint"])
    finally:
        command("server", "down", "--grpc-port", url.rpartition(":")[2])
    for metrics in measured[1:]:
        assert metrics == pytest.approx(measured[0], abs=0.001)
    assert checked.exit_code == 0, checked.output


def test_baseline_is_sent_to_mlflow_when_configured(
    command: Command, trained: FitResult, tmp_path: Path, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path / "config.yaml",
        load_config(trained.run / "config.yaml").data.path,
        model={"name": "test_resnet", "weights": str(trained.checkpoint)},
        trackers=["csv", "mlflow"],
    )
    result = command("train", "baseline", config, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads((Path(json.loads(result.stdout)["run"]) / "mlflow.json").read_text())
    assert record["status"] == "FINISHED", result.stderr
    assert "best.safetensors" in record["artifacts"]
