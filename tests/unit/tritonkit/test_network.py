"""The network: it contains every step from uint8 pixels to outputs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import timm
import torch

from tests.errors import raises
from tests.fixture_types import MakeNetwork, NetworkOf
from tritonkit.errors import SpecError
from tritonkit.images.preprocess import ImageArray, Preprocess
from tritonkit.networks.backbones import (
    architecture_of,
    build_backbone,
    dense_architecture_of,
    head_of,
    timm_normalize,
    timm_preprocess,
)
from tritonkit.networks.network import Network
from tritonkit.spec import Architecture, ModelSpec, Normalize, TaskSpec
from tritonkit.tasks import task_of


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("resnet19", "architecture.unknown"),
        ("hf-hub:someone/model", "architecture.hub_model"),
        ("../resnet18", "architecture.unknown"),
        ("", "architecture.unknown"),
    ],
)
def test_architecture_is_refused_when_timm_does_not_know_it(name: str, code: str) -> None:
    with raises(SpecError, code):
        architecture_of(name, 32, 32)


@pytest.mark.parametrize("name", ["hf-hub:timm/test_resnet.r160_in1k", "hf_hub:timm/test_resnet.r160_in1k"])
def test_architecture_is_found_under_timms_prefix_of_the_hub(name: str) -> None:
    assert architecture_of(name, 32, 32) == Architecture(name="test_resnet.r160_in1k")


def test_network_is_refused_when_its_patches_would_drop_pixels(make_network: MakeNetwork) -> None:
    network = make_network("test_vit")
    network.check_patch_multiple()
    spec = network.spec
    cut = Network(
        spec.model_copy(
            update={
                "architecture": architecture_of("test_vit", 40, 32),
                "preprocess": Preprocess(40, 32),
                "input": spec.input.model_copy(update={"shape": (40, 32, 3)}),
            }
        )
    )
    with raises(SpecError, "architecture.patch_size", "image.size 40x32", " 16 ", "test_vit", "48x32"):
        cut.check_patch_multiple("image.size")


def test_network_is_refused_when_it_would_not_take_rgb(spec: ModelSpec) -> None:
    architecture = Architecture(name="test_resnet", arguments={"in_chans": 1})
    with raises(SpecError, "architecture.channels"):
        Network(spec.model_copy(update={"architecture": architecture}))


def test_architecture_names_what_is_near_when_timm_does_not_know_it() -> None:
    with raises(SpecError, "architecture.unknown") as caught:
        architecture_of("mobilenetv3_huge", 32, 32)
    assert "mobilenetv3_small" in str(caught.value) or "mobilenetv3_large" in str(caught.value)


def test_architecture_is_refused_when_its_weights_are_unknown() -> None:
    with raises(SpecError, "weights.not_found", "'test_resnet.moon'"):
        timm_normalize("test_resnet.moon")


@pytest.mark.parametrize("argument", ["checkpoint_path", "num_classes", "pretrained"])
def test_network_is_refused_when_an_argument_belongs_elsewhere(spec: ModelSpec, argument: str) -> None:
    architecture = Architecture(name="test_resnet", arguments={argument: "/tmp/other.pth"})
    with raises(SpecError, "architecture.arguments") as caught:
        Network(spec.model_copy(update={"architecture": architecture}))
    assert str(caught.value).endswith(f": {argument}")


def test_network_is_refused_when_timm_knows_no_such_argument(spec: ModelSpec) -> None:
    architecture = Architecture(name="test_resnet", arguments={"zoom": 2})
    with raises(SpecError, "architecture.build") as caught:
        Network(spec.model_copy(update={"architecture": architecture}))
    assert re.search(r"test_resnet \{'zoom': 2\}.*zoom", str(caught.value))


@pytest.mark.parametrize(
    "question",
    [
        TaskSpec(task="multilabel", labels=("cat", "dog")),
        TaskSpec(task="embedding", embedding_size=5),
        TaskSpec(task="segmentation", labels=("background", "cat")),
        TaskSpec(task="segmentation", labels=("background", "cat"), probability=True),
        TaskSpec(task="segmentation", labels=("background", "cat", "dog")),
        TaskSpec(
            task="heads",
            heads={
                "kind": TaskSpec(task="multiclass", labels=("cat", "dog", "bird")),
                "traits": TaskSpec(task="multilabel", labels=("old", "wet")),
                "vector": TaskSpec(task="embedding", embedding_size=5),
            },
        ),
    ],
    ids=lambda question: f"{question.task}-{len(question.labels)}-{question.probability}",
)
def test_network_gives_what_its_spec_says_when_asked(network_of: NetworkOf, question: TaskSpec) -> None:
    network = network_of(question)
    side = network.spec.input.shape[0]
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8))
    with torch.inference_mode():
        answers = {o.name: a.numpy() for o, a in zip(network.spec.outputs, network(images), strict=True)}
    types = {"FP32": "float32", "UINT8": "uint8"}
    for output in network.spec.outputs:
        assert (answers[output.name].dtype, answers[output.name].shape) == (types[output.dtype], (3, *output.shape))
    assert task_of(network.spec).faults(answers) == []
    assert ModelSpec.from_json(network.spec.to_json(), "x") == network.spec


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_network_cuts_its_mask_where_the_threshold_lies(network_of: NetworkOf, threshold: float) -> None:
    question = TaskSpec(
        task="segmentation", labels=("background", "cat"), thresholds={"cat": threshold}, probability=True
    )
    network = network_of(question)
    # With this contrast there are probabilities on both sides of each threshold.
    logits = 3 * torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    mask, probability = network.answers(logits)
    assert torch.allclose(probability, logits.softmax(dim=1)[:, 1], atol=1e-6)
    clear = (probability - threshold).abs() > 1e-6
    assert torch.equal(mask[clear].bool(), (probability >= threshold)[clear])
    assert 0.1 < mask.float().mean() < 0.9


def test_network_takes_the_most_probable_class_when_a_mask_has_several(network_of: NetworkOf) -> None:
    network = network_of(TaskSpec(task="segmentation", labels=("background", "cat", "dog")))
    logits = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (mask,) = network.answers(logits)
    assert mask.dtype == torch.uint8
    assert torch.equal(mask.long(), logits.argmax(dim=1))


def test_network_shares_its_weights_when_it_is_asked_in_other_terms(network_of: NetworkOf) -> None:
    network = network_of(TaskSpec(task="segmentation", labels=("background", "cat")))
    strict = network.with_spec(network.spec.model_copy(update={"thresholds": {"cat": 0.999}}))
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    with torch.inference_mode():
        assert network(images)[0].sum() > strict(images)[0].sum()
    assert strict.backbone is network.backbone
    assert network.spec.thresholds == {}


def test_heads_alone_learn_when_the_rest_is_frozen(network_of: NetworkOf) -> None:
    two = TaskSpec(
        task="heads",
        heads={"a": TaskSpec(task="multiclass", labels=("x", "y")), "b": TaskSpec(task="multilabel", labels=("z",))},
    )
    task_specs = {
        "backbone.fc": TaskSpec(task="multiclass", labels=("x", "y")),
        "heads.a_head": two,
        "backbone.segmentation_head": TaskSpec(task="segmentation", labels=("x", "y")),
    }
    for name, task_spec in task_specs.items():
        network = network_of(task_spec)
        frozen = {id(module) for module in network.modules_without_heads()}
        assert id(network.get_submodule(name)) not in frozen
        stem = "backbone.encoder" if task_spec.task == "segmentation" else "backbone.conv1"
        assert id(network.get_submodule(stem)) in frozen


@pytest.mark.parametrize(
    ("name", "encoder", "suggestion"),
    [
        ("Unett", "resnet18", "'unett'; .*unet"),
        ("Unet", "resnet19", "'resnet19'; .*resnet18"),
    ],
)
def test_dense_architecture_names_similar_ones_when_it_is_unknown(name: str, encoder: str, suggestion: str) -> None:
    with raises(SpecError, "architecture.unknown") as caught:
        dense_architecture_of(name, encoder)
    assert re.search(suggestion, str(caught.value))


@pytest.mark.parametrize(
    ("spelled", "known"),
    [
        ("ResNet-18", "resnet18"),
        ("WideResNet-50-2", "wide_resnet50_2"),
        ("ResNeXt-50 32x4d", "resnext50_32x4d"),
        ("MobileNetV3 small", "mobilenetv3_small_100"),
        ("EfficientNet-B0", "efficientnet_b0"),
    ],
)
def test_architecture_is_found_when_it_is_spelled_as_elsewhere(spelled: str, known: str) -> None:
    assert architecture_of(spelled, 32, 32).name == known


def test_heads_may_have_any_name_when_built(network_of: NetworkOf) -> None:
    """Such as those of torch's own attributes."""
    names = ("type", "values", "half", "train")
    heads = {name: TaskSpec(task="multiclass", labels=("a", "b")) for name in names}
    network = network_of(TaskSpec(task="heads", heads=heads))
    answers = network(torch.zeros((1, 32, 32, 3), dtype=torch.uint8))
    assert [output.name for output in network.spec.outputs] == list(names)
    assert [tuple(answer.shape) for answer in answers] == [(1, 2)] * 4


def test_network_is_refused_when_outputs_disagree_with_the_task(spec: ModelSpec) -> None:
    with raises(SpecError, "spec.outputs_mismatch", "2 labels"):
        Network(spec.model_copy(update={"labels": ("cat", "dog")}))


def test_architecture_fixes_the_size_only_when_the_network_has_position_tables() -> None:
    assert architecture_of("test_vit", 48, 32).arguments == {"img_size": [48, 32]}
    assert architecture_of("test_resnet", 48, 32).arguments == {}


def test_preprocessing_is_what_timm_documents_when_asked_by_name() -> None:
    config = timm.get_pretrained_cfg("mobilenetv3_small_100.lamb_in1k")
    preprocess = timm_preprocess("mobilenetv3_small_100.lamb_in1k")
    assert preprocess == Preprocess(224, 224, crop_ratio=config.crop_pct, interpolation=config.interpolation)
    assert timm_normalize("mobilenetv3_small_100.lamb_in1k").mean == config.mean


def test_network_normalises_inside_when_it_gets_raw_pixels(make_network: MakeNetwork, batch: ImageArray) -> None:
    network = make_network("test_resnet")
    scaled = (batch.astype(np.float64) / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.25, 0.3)
    with torch.inference_mode():
        raw = network.backbone(torch.from_numpy(scaled.astype(np.float32)).permute(0, 3, 1, 2))
        (answers,) = network(torch.from_numpy(batch))
    assert torch.allclose(answers, raw.softmax(dim=1), atol=1e-5)
    assert torch.allclose(answers.sum(dim=1), torch.ones(len(batch)))


def test_network_keeps_its_own_normalisation_when_another_is_tried(
    make_network: MakeNetwork, batch: ImageArray
) -> None:
    network, images = make_network("test_resnet"), torch.from_numpy(batch)
    halved = Normalize(mean=(0.25, 0.2, 0.15), std=(0.1, 0.125, 0.15))
    with torch.inference_mode():
        (before,) = network(images)
        other = network.with_normalize(halved)
        assert torch.allclose(other(images // 2)[0], network(images // 2 * 2)[0], atol=1e-4)
        assert torch.equal(network(images)[0], before)
    assert other.spec.normalize == halved
    assert network.spec.normalize != halved


def test_network_answers_alike_when_an_image_is_alone_or_in_a_batch(
    make_network: MakeNetwork, batch: ImageArray
) -> None:
    network, images = make_network("test_vit"), torch.from_numpy(batch)
    with torch.inference_mode():
        alone = torch.cat([network(image[None])[0] for image in images])
        assert torch.allclose(alone, network(images)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet"])
def test_last_layer_of_torchvision_is_the_head_and_can_be_left_out(name: str) -> None:
    built = build_backbone(architecture_of(f"torchvision/{name}", 64, 64), 5, pretrained=False).eval()
    features = build_backbone(architecture_of(f"torchvision/{name}", 64, 64), 0, pretrained=False).eval()
    pixels = torch.zeros(1, 3, 64, 64)
    assert built(pixels).shape == (1, 5)
    assert features(pixels).shape == (1, 1024 if name == "googlenet" else 512)
    assert [weight.shape[0] for weight in head_of(built).parameters()] == [5, 5]
