"""The kind of a source is detected by its content; timm weights and checkpoints of other trainers load."""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from builder.sources import open_source
from tests.errors import raises
from tritonkit.errors import CheckpointError, InputError, SpecError
from tritonkit.export_options import ForeignModelOptions
from tritonkit.options import options_from


def test_timm_weights_are_refused_when_they_have_too_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    configs, name = timm.models._registry._model_pretrained_cfgs, "test_resnet.r160_in1k"
    monkeypatch.setitem(configs, name, dataclasses.replace(configs[name], label_names=("cat", "dog")))
    with raises(SpecError, "source.label_count"):
        open_source(f"timm:{name}", ForeignModelOptions(), None)


@pytest.mark.parametrize(
    ("name", "foreign", "error", "expected"),
    [
        ("no_such_net", ForeignModelOptions(), SpecError, "'no_such_net'"),
        ("test_resnet.no_tag", ForeignModelOptions(), SpecError, "'test_resnet.no_tag'"),
        ("test_resnet", ForeignModelOptions(model="resnet18"), InputError, "leave out --model"),
        ("test_resnet", ForeignModelOptions(task="segmentation"), InputError, "option.task_of_pretrained"),
        ("vit_base_patch16_clip_224.openai", ForeignModelOptions(), InputError, "source.labels_unknown"),
    ],
)
def test_timm_name_is_refused_when_the_options_do_not_fit(
    name: str, foreign: ForeignModelOptions, error: type[InputError], expected: str
) -> None:
    with pytest.raises(error) as caught:
        open_source(f"timm:{name}", foreign, None)
    assert type(caught.value) is error
    assert expected == caught.value.code or expected in str(caught.value)


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "module.model."])
def test_lightning_checkpoint_is_loaded_when_its_settings_are_plain(
    prefix: str, net: nn.Module, labels: Path, tmp_path: Path
) -> None:
    state = {prefix + key: value for key, value in net.state_dict().items()}
    document = {"state_dict": state, "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.6", "epoch": 3}
    torch.save(document, tmp_path / "last.ckpt")
    source = open_source(tmp_path / "last.ckpt", ForeignModelOptions(model="test_resnet", labels=labels), None)
    assert f"after stripping '{prefix}'" in source.description


class Settings:
    """A third-party class in a pickle."""


def test_lightning_checkpoint_is_refused_when_it_holds_objects(net: nn.Module, labels: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": net.state_dict(), "hyper_parameters": Settings()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"Settings.*checkpoint\[.state_dict.\]"):
        open_source(tmp_path / "last.ckpt", ForeignModelOptions(model="test_resnet", labels=labels), None)


def test_pickled_model_is_refused(net: nn.Module, labels: Path, tmp_path: Path) -> None:
    torch.save(net, tmp_path / "model.pt")
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "model.pt", ForeignModelOptions(model="test_resnet", labels=labels), None)


def test_timm_safetensors_are_weights_with_any_metadata(net: nn.Module, labels: Path, tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        save_file(net.state_dict(), tmp_path / "model.safetensors", metadata=metadata)
        with raises(
            InputError, "option.missing_for_weights", "--model TIMM_NAME", "--labels FILE", "fc.weight", "3 classes"
        ):
            open_source(tmp_path / "model.safetensors", None, None)
        source = open_source(
            tmp_path / "model.safetensors", ForeignModelOptions(model="test_resnet", labels=labels), None
        )
        assert source.spec.labels == ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"__metadata__": None}, InputError),
        ({"__metadata__": 5}, CheckpointError),
        ({"__metadata__": ["tritonkit.spec"]}, CheckpointError),
        ([], CheckpointError),
    ],
)
def test_safetensors_with_invalid_metadata_give_one_error(
    header: object, error: type[InputError], tmp_path: Path
) -> None:
    if isinstance(header, dict):
        header["fc.weight"] = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(error) as caught:
        open_source(tmp_path / "m.safetensors", None, None)
    assert type(caught.value) is error
    assert (caught.value.code == "option.missing_for_weights") == (error is InputError)


PLAN = b"ptrt" + bytes(60)
DESCRIPTION = json.dumps({"description": "YOLO11n-cls", "task": "classify"}).encode()


@pytest.mark.parametrize(
    ("name", "content", "code", "part"),
    [
        ("m.plan", PLAN, "source.plan", "TensorRT plan"),
        ("m.bin", b"ftrt" + bytes(60), "source.plan", "TensorRT plan"),
        ("m.plan", b"vtrt" + bytes(60), "source.plan", "TensorRT for RTX plan"),
        ("m.plan", b"ftrt", "source.plan", " 4 bytes"),
        ("m.engine", struct.pack("<I", len(DESCRIPTION)) + DESCRIPTION + PLAN, "source.plan", " 50 bytes of JSON"),
        ("m.engine", b"whatever it is", "source.plan", "TensorRT"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3", "source.unknown_kind", ".safetensors"),
        ("m.pth", b"", "source.empty", ""),
        ("m.pth", b"not a checkpoint", None, "PyTorch"),
        ("m.pth", b"PK\x03\x04 cut short", None, "PyTorch"),
        ("m.onnx", b"not a graph", "onnx.unreadable", ""),
        ("m.safetensors", b"short", None, ".safetensors"),
    ],
)
def test_file_that_is_no_source_is_refused_with_a_remedy(
    name: str, content: bytes, code: str | None, part: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / name, None, None)
    assert code in (None, caught.value.code)
    assert part in str(caught.value)
    assert name in str(caught.value)


def test_zip_archive_is_refused_when_torch_did_not_write_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/readme", "hello")
    with raises(InputError, "source.zip"):
        open_source(tmp_path / "m.pt", None, None)


def test_damaged_safetensors_is_reported_before_third_party_options(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        open_source(tmp_path / "m.safetensors", ForeignModelOptions(labels=labels), None)


def test_folder_is_refused_with_the_name_of_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "1"
    run.mkdir(parents=True)
    checkpoint.rename(run / "best.safetensors")
    for folder in (run, run.parent):
        with pytest.raises(InputError, match=f"{run}/best.safetensors"):
            open_source(folder, None, None)


def test_tritonkit_checkpoint_is_refused_with_third_party_options(checkpoint: Path) -> None:
    with raises(InputError, "option.foreign_unused", "--size", "--task"):
        open_source(checkpoint, ForeignModelOptions(size=(8, 8), task="multilabel"), None)


def test_options_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        options_from(
            ForeignModelOptions,
            {
                "labels": tmp_path / "no.txt",
                "mean": "1,2",
                "std": "0,1,1",
                "size": "0x5",
                "layout": "HWC",
                "task": "detection",
                "activation": "relu",
            },
        )
    for part in (
        "no.txt: no such",
        "--mean",
        "--std",
        "--size",
        "--layout HWC",
        "--task detection",
        "--activation relu",
    ):
        assert part in str(caught.value)
    assert options_from(ForeignModelOptions, {"layout": "nhwc"}) == ForeignModelOptions(layout="NHWC")
