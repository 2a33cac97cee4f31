"""The kind of a source is detected by its content; timm weights and checkpoints of other trainers load."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from builder.pipeline import PublishedVersion, export
from builder.request import ExportRequest
from builder.sources import Source, open_source
from tests.programs import run_python
from tritonkit.export_options import ForeignModelOptions


@pytest.fixture
def in_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that puts random weights of a timm model into the hub's cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str) -> Path:
        torch.manual_seed(0)
        network = timm.create_model(name)
        folder = tmp_path / "hub" / f"models--{network.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        weights = folder / "snapshots" / ("0" * 40) / "model.safetensors"
        weights.parent.mkdir(parents=True)
        save_file(network.state_dict(), weights)
        return weights

    return put


def published(source: Source, repository: Path) -> PublishedVersion:
    result = export(ExportRequest(source=source, repository=repository, max_batch=4))
    assert result.verdict.passed
    return result


def test_timm_weights_are_published_with_imagenet_labels(in_cache: Callable[[str], Path], tmp_path: Path) -> None:
    in_cache("test_resnet")
    source = open_source("timm:test_resnet", ForeignModelOptions(size=(32, 32)), "small")
    assert source.spec.labels[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    assert len(source.spec.labels) == 1000
    result = published(source, tmp_path / "repository")
    assert result.source.startswith("timm test_resnet, weights timm/test_resnet.r160_in1k")
    assert result.model == "small"


def test_timm_features_are_published_with_task_embedding(in_cache: Callable[[str], Path], tmp_path: Path) -> None:
    weights = in_cache("test_resnet")
    source = open_source("timm:test_resnet", ForeignModelOptions(size=(32, 32), task="embedding"), None)
    assert source.spec.outputs[0].shape == (96,)
    published(source, tmp_path / "repository")
    assert source.spec.lineage.parent is not None
    assert source.path == weights


def test_timm_gives_one_error_when_weights_cannot_be_downloaded(tmp_path: Path) -> None:
    code = "from builder.sources import open_source; open_source('timm:test_resnet', None, None)"
    # No server listens on this address on any machine.
    result = run_python("-c", code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("tritonkit.errors.ExternalError: test_resnet: ")
    assert "builder export FILE --model test_resnet --labels FILE" in lines[-1]
    assert "Retrying" not in result.stderr


def test_timm_training_checkpoint_gives_its_model_name_and_averaged_weights(
    net: nn.Module, labels: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model_best.pth.tar"
    document = {
        "arch": "test_resnet",
        "state_dict": timm.create_model("test_resnet", num_classes=3).state_dict(),
        "state_dict_ema": {f"module.{key}": value for key, value in net.state_dict().items()},
        "args": argparse.Namespace(lr=0.1, output=Path("runs")),
    }
    torch.save(document, path)
    source = open_source(path, ForeignModelOptions(labels=labels, size=(32, 32)), None)
    assert "into timm test_resnet, named in the file: matched by name after stripping 'module.'" in source.description
    assert source.network is not None
    assert torch.equal(source.network.backbone.state_dict()["fc.weight"], net.state_dict()["fc.weight"])
    published(source, tmp_path / "repository")
