"""Third-party TorchScript files are exported and verified against the original, or refused with a reason."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from builder.export import export
from builder.request import ExportRequest
from builder.show import show
from builder.sources import open_source
from tests.errors import raises
from tritonkit.errors import ArtifactError, InputError
from tritonkit.export_options import ForeignModelOptions, OutputOptions


@pytest.mark.parametrize("kind", ["scripted", "traced", "traced for one"])
def test_torchscript_is_published_with_a_size(kind: str, net: nn.Module, labels: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        if kind == "scripted":
            torch.jit.script(net).save(tmp_path / "given.pt")
        elif kind == "traced":
            torch.jit.trace(net, torch.zeros(2, 3, 32, 32)).save(tmp_path / "given.pt")
        else:
            vit = timm.create_model("test_vit", num_classes=3, img_size=32).eval()
            torch.jit.trace(vit, torch.zeros(1, 3, 32, 32)).save(tmp_path / "given.pt")
    source = open_source(tmp_path / "given.pt", ForeignModelOptions(labels=labels, size=(32, 32)), None)
    assert source.description.startswith("given.pt (TorchScript")
    assert "softmax added" in source.description
    result = export(ExportRequest(source=source, repository=tmp_path / "repository", max_batch=4))
    assert result.verdict.passed
    spec = show(result.artifact).spec
    assert spec is not None
    assert spec.architecture.library == "graph"
    with raises(InputError, "option.output_of_graph"):
        source.with_output_options(OutputOptions(threshold=0.3))


def test_torchscript_is_refused_without_a_size(net: nn.Module, labels: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(net).save(tmp_path / "given.pt")
    with raises(InputError, "option.size_missing"):
        open_source(tmp_path / "given.pt", ForeignModelOptions(labels=labels), None)


def test_torchscript_with_damaged_code_gives_one_error(net: nn.Module, labels: Path, tmp_path: Path) -> None:
    path = tmp_path / "given.pt"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(net).save(path)
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith(".py"))
    damaged = bytearray(path.read_bytes())
    place = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    damaged[place : place + 64] = bytes(64)
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError) as caught:
        open_source(path, ForeignModelOptions(labels=labels, size=(32, 32)), None)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


class AnswersInBf16(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)).to(torch.bfloat16)


def test_torchscript_is_refused_when_numpy_lacks_its_output_type(labels: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(AnswersInBf16()).save(tmp_path / "given.pt")
    with raises(ArtifactError, "torchscript.output_type"):
        open_source(tmp_path / "given.pt", ForeignModelOptions(labels=labels, size=(32, 32)), None)


class WritesFiles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "/tmp/tritonkit-was-here")
        return x


class ReadsFiles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            x = x + torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8).sum()
        return x


@pytest.mark.parametrize(("module", "called"), [(WritesFiles, "save"), (ReadsFiles, "from_file")])
def test_torchscript_that_accesses_files_is_not_run(
    module: type[nn.Module], called: str, labels: Path, tmp_path: Path
) -> None:
    Path("/tmp/tritonkit-was-here").unlink(missing_ok=True)
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(module()).save(tmp_path / "given.pt")
    with pytest.raises(InputError, match=rf"{called} \(in code.*\)"):
        open_source(tmp_path / "given.pt", ForeignModelOptions(labels=labels, size=(32, 32)), None)
    assert not Path("/tmp/tritonkit-was-here").exists()
