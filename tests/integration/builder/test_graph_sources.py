"""Third-party ONNX files are exported and verified against the original file, or refused with a reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
from torch import Tensor, nn

from builder.pipeline import PublishedVersion, export
from builder.repository.lint import check_repository
from builder.request import ExportRequest
from builder.show import show
from builder.sources import Source, open_source
from builder.sources.images import builtin_golden
from builder.verification.context import verification_context
from tests.errors import raises
from tritonkit.errors import ArtifactError, InputError, SpecError
from tritonkit.export_options import ForeignModelOptions, OutputOptions
from tritonkit.networks.network import Network
from tritonkit.runtimes.onnxruntime import OnnxRuntimeRunner

SIDE = 32
MakeOnnx = Callable[..., Path]


class Wrapped(nn.Module):
    """A classifier with a function before it and one after it."""

    def __init__(self, net: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def identity(x: Tensor) -> Tensor:
    return x


def to_nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def pixels(x: Tensor) -> Tensor:
    return to_nchw(x.float()) / 255


def softmax(x: Tensor) -> Tensor:
    return x.softmax(1)


def sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


@pytest.fixture
def make_onnx(tmp_path: Path) -> MakeOnnx:
    """A function that exports a module to a third-party ONNX file."""

    def write(
        module: nn.Module,
        shape: tuple[int, ...] = (3, SIDE, SIDE),
        dtype: torch.dtype = torch.float32,
        opset: int = 17,
        batch: int | None = None,
        open_sizes: bool = False,
        names: tuple[str, str] = ("input", "output"),
    ) -> Path:
        path = tmp_path / "given.onnx"
        axes = {0: "N", **({2: "H", 3: "W"} if open_sizes else {})}
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                module.eval(),
                (torch.zeros(batch or 2, *shape, dtype=dtype),),
                path,
                dynamo=False,
                opset_version=opset,
                input_names=[names[0]],
                output_names=[names[1]],
                dynamic_axes=None if batch else {names[0]: axes, names[1]: {0: "N"}},
            )
        return path

    return write


def open_graph(path: Path, **options: Any) -> Source:
    """Open a third-party graph with options of the command line."""
    return open_source(path, ForeignModelOptions(**options), None)


def published(source: Source, repository: Path) -> PublishedVersion:
    result = export(ExportRequest(source=source, repository=repository, max_batch=4))
    assert result.verdict.passed
    assert check_repository(repository) == []
    return result


@pytest.mark.parametrize(
    ("before", "shape", "dtype", "expected"),
    [
        (identity, (3, SIDE, SIDE), torch.float32, "takes 'input' as float32 NCHW 32 x 32 RGB, mean 0.485,0.456,0.406"),
        (to_nchw, (SIDE, SIDE, 3), torch.float32, "takes 'input' as float32 NHWC 32 x 32 RGB, mean 0.485,0.456,0.406"),
        (pixels, (SIDE, SIDE, 3), torch.uint8, "takes 'input' as uint8 NHWC 32 x 32 RGB, pixels unchanged"),
    ],
)
def test_third_party_onnx_of_any_layout_is_published(
    before: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    expected: str,
    net: nn.Module,
    labels: Path,
    make_onnx: MakeOnnx,
    tmp_path: Path,
) -> None:
    onnx_path = make_onnx(Wrapped(net, before, identity), shape, dtype)
    result = published(open_source(str(onnx_path), ForeignModelOptions(labels=labels), "pets"), tmp_path / "repository")
    assert expected in result.source
    assert "softmax added" in result.source
    contents = show(result.artifact)
    assert contents.spec is not None
    assert (contents.spec.architecture.library, contents.spec.architecture.name) == ("graph", "given")
    assert contents.spec.labels == ("cat", "dog", "bird")
    with raises(SpecError, "architecture.graph"):
        Network(contents.spec)


def test_description_names_assumed_preprocessing(net: nn.Module, labels: Path, make_onnx: MakeOnnx) -> None:
    onnx_path = make_onnx(net)
    assumed = open_graph(onnx_path, labels=labels)
    assert "(mean and std: ImageNet's, assumed); images: crop, keeps 0.875, bilinear (assumed)" in assumed.description
    explicit = open_graph(onnx_path, labels=labels, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert "ImageNet's" not in explicit.description


def test_graph_gets_the_timm_recipe_in_its_own_size_when_a_model_is_named(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx
) -> None:
    source = open_graph(make_onnx(net), model="test_resnet", labels=labels)
    assert "(mean and std: timm's for test_resnet); images: crop, keeps 0.95, bilinear (timm's" in source.description
    assert source.spec.input.shape == (SIDE, SIDE, 3)
    onnx_path = make_onnx(net, open_sizes=True)
    assert open_graph(onnx_path, model="test_resnet", labels=labels).spec.input.shape == (160, 160, 3)
    assert open_graph(onnx_path, model="test_resnet", labels=labels, size=(48, 64)).spec.input.shape == (48, 64, 3)


def test_verdict_fails_when_the_graph_is_wrapped_wrongly(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    source = open_graph(make_onnx(net), labels=labels)
    right = tmp_path / "right.onnx"
    source.write_graph(right)
    wrong = onnx.load(right)
    (mean,) = [tensor for tensor in wrong.graph.initializer if tensor.name == "tritonkit.mean"]
    mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean)[:, ::-1].copy() * 0.5, mean.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    context = verification_context(source, builtin_golden(source.spec.preprocess), max_batch=4)
    verdicts = [context.verify(OnnxRuntimeRunner(path), "fp32", path) for path in (right, tmp_path / "wrong.onnx")]
    assert verdicts[0].passed
    assert "verdict.numbers" in {problem.code for problem in verdicts[1].problems}


def test_softmax_is_not_added_when_the_graph_has_one(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    onnx_path = make_onnx(Wrapped(net, identity, softmax), names=("image", "probabilities"))
    result = published(open_graph(onnx_path, labels=labels), tmp_path / "repository")
    assert "unchanged" in result.source
    assert "added" not in result.source


@pytest.mark.parametrize(
    ("options", "after", "expected"),
    [
        ({"task": "embedding"}, identity, "scaled to length 1"),
        ({"task": "multilabel", "labels": "labels.txt"}, identity, "sigmoid added"),
        ({"task": "multilabel", "labels": "labels.txt"}, sigmoid, "unchanged"),
        ({"labels": "labels.txt", "activation": "softmax"}, sigmoid, "softmax added, by --activation"),
    ],
)
def test_onnx_is_published_with_another_task_or_activation(
    options: dict[str, str],
    after: Callable[[Tensor], Tensor],
    expected: str,
    net: nn.Module,
    labels: Path,
    make_onnx: MakeOnnx,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign = ForeignModelOptions.model_validate(options)
    result = published(open_source(make_onnx(Wrapped(net, identity, after)), foreign, None), tmp_path / "repository")
    assert expected in result.source


@pytest.mark.parametrize(("channels", "names"), [(1, "sky\nground\n"), (2, "sky\nground\n"), (3, "a\nb\nc\n")])
def test_onnx_masks_are_published_with_task_segmentation(
    channels: int, names: str, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    labels.write_text(names)
    onnx_path = make_onnx(nn.Conv2d(3, channels, 3, padding=1), (3, 64, 64))
    result = published(open_graph(onnx_path, labels=labels, task="segmentation"), tmp_path / "repository")
    assert result.verdict.comparisons[0].agreement["iou"] == 1


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_fixed_batch_is_made_dynamic_when_the_graph_allows_it(
    architecture: str, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sized = {"img_size": SIDE} if "vit" in architecture else {}
    onnx_path = make_onnx(timm.create_model(architecture, num_classes=3, **sized), batch=1)
    result = published(open_graph(onnx_path, labels=labels), tmp_path / "repository")
    assert "its batch of 1 made dynamic" in result.source


def test_fixed_batch_inside_the_graph_is_refused(labels: Path, make_onnx: MakeOnnx) -> None:
    class Stuck(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)).reshape(3, 1).permute(1, 0)

    with raises(ArtifactError, "onnx.batch_mixed"):
        open_graph(make_onnx(Stuck(), batch=1), labels=labels)


def test_old_opset_is_converted_and_described(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    result = published(open_graph(make_onnx(net, opset=11), labels=labels), tmp_path / "repository")
    assert "opset 11 converted to 17" in result.source


def test_dynamic_height_and_width_are_set_by_size(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    onnx_path = make_onnx(net, open_sizes=True)
    with raises(InputError, "option.size_missing"):
        open_graph(onnx_path, labels=labels)
    source = open_graph(onnx_path, labels=labels, size=(48, 64))
    assert source.spec.input.shape == (48, 64, 3)
    published(source, tmp_path / "repository")


def test_half_precision_graph_is_published_unchanged(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx, tmp_path: Path
) -> None:
    from onnxruntime.transformers import float16

    onnx_path = make_onnx(net)
    with warnings.catch_warnings(action="ignore"):
        onnx.save(float16.convert_float_to_float16(onnx.load(onnx_path)), onnx_path)
    source = open_graph(onnx_path, labels=labels)
    assert "float16" in source.description
    published(source, tmp_path / "repository")
    with raises(InputError, "onnx.already_reduced"):
        source.check_precision("int8")
    with raises(InputError, "option.source_is_reduced"):
        export(ExportRequest(source=source, repository=tmp_path / "repository", onnx="fp16", keep_fp32=("x",)))


def test_tritonkit_onnx_file_keeps_its_spec(tiny_repository: Path, tmp_path: Path) -> None:
    source = open_source(tiny_repository / "pets/1/model.onnx", None, "renamed")
    assert source.spec.name == "renamed"
    assert source.golden is not None
    result = published(source, tmp_path / "repository")
    assert show(result.artifact).spec == source.spec
    with raises(InputError, "option.foreign_unused", "--size"):
        open_source(tiny_repository / "pets/1/model.onnx", ForeignModelOptions(size=(8, 8)), None)


def test_output_options_of_a_graph_are_refused_except_a_multilabel_threshold(
    net: nn.Module, labels: Path, make_onnx: MakeOnnx
) -> None:
    onnx_path = make_onnx(net)
    with raises(InputError, "option.output_of_graph"):
        open_graph(onnx_path, labels=labels).with_output_options(OutputOptions(threshold=0.3))
    multilabel = open_graph(onnx_path, labels=labels, task="multilabel").with_output_options(
        OutputOptions(threshold=0.3)
    )
    assert multilabel.spec.threshold("dog") == 0.3
