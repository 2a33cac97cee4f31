"""The network: everything between uint8 pixels and answers is inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch

from model.errors import SpecError
from model.network import Network, architecture_of, timm_normalize, timm_preprocess
from model.preprocess import ImageArray, Preprocess
from model.spec import Architecture, ModelSpec, Normalize


def test_network_normalises_inside_when_it_gets_raw_pixels(
    make_network: Callable[[str], Network], batch: ImageArray
) -> None:
    network = make_network("test_resnet")
    scaled = (batch.astype(np.float64) / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.25, 0.3)
    with torch.inference_mode():
        raw = network.backbone(torch.from_numpy(scaled.astype(np.float32)).permute(0, 3, 1, 2))
        (answers,) = network(torch.from_numpy(batch))
    assert torch.allclose(answers, raw.softmax(dim=1), atol=1e-5)
    assert torch.allclose(answers.sum(dim=1), torch.ones(len(batch)))


def test_network_keeps_its_own_normalisation_when_another_is_tried(
    make_network: Callable[[str], Network], batch: ImageArray
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
    make_network: Callable[[str], Network], batch: ImageArray
) -> None:
    network, images = make_network("test_vit"), torch.from_numpy(batch)
    with torch.inference_mode():
        alone = torch.cat([network(image[None])[0] for image in images])
        assert torch.allclose(alone, network(images)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["resnet19", "hf-hub:someone/model", "../resnet18", ""])
def test_architecture_is_refused_when_timm_does_not_know_it(name: str) -> None:
    with pytest.raises(SpecError, match="has no model"):
        architecture_of(name, 32, 32)


def test_architecture_names_what_is_near_when_timm_does_not_know_it() -> None:
    with pytest.raises(SpecError, match=r"near it: .*mobilenetv3_"):
        architecture_of("mobilenetv3_huge", 32, 32)


def test_architecture_is_refused_when_its_weights_are_unknown() -> None:
    with pytest.raises(SpecError, match=r"no weights 'test_resnet\.moon'"):
        timm_normalize("test_resnet.moon")


@pytest.mark.parametrize("argument", ["checkpoint_path", "num_classes", "pretrained"])
def test_network_is_refused_when_an_argument_belongs_elsewhere(spec: ModelSpec, argument: str) -> None:
    architecture = Architecture(name="test_resnet", arguments={argument: "/tmp/other.pth"})
    with pytest.raises(SpecError, match=f"leave out of its arguments: {argument}"):
        Network(spec.model_copy(update={"architecture": architecture}))


def test_network_is_refused_when_timm_knows_no_such_argument(spec: ModelSpec) -> None:
    architecture = Architecture(name="test_resnet", arguments={"zoom": 2})
    with pytest.raises(SpecError, match=r"cannot build test_resnet \{'zoom': 2\}.*zoom"):
        Network(spec.model_copy(update={"architecture": architecture}))


def test_network_is_refused_when_outputs_disagree_with_the_task(spec: ModelSpec) -> None:
    with pytest.raises(SpecError, match="with 2 labels has the outputs"):
        Network(spec.model_copy(update={"labels": ("cat", "dog")}))


def test_architecture_fixes_the_size_only_when_the_network_has_position_tables() -> None:
    assert architecture_of("test_vit", 48, 32).arguments == {"img_size": [48, 32]}
    assert architecture_of("test_resnet", 48, 32).arguments == {}


def test_preprocessing_is_what_timm_documents_when_asked_by_name() -> None:
    config = timm.get_pretrained_cfg("mobilenetv3_small_100.lamb_in1k")
    how = timm_preprocess("mobilenetv3_small_100.lamb_in1k")
    assert how == Preprocess(224, 224, crop_ratio=config.crop_pct, interpolation=config.interpolation)
    assert timm_normalize("mobilenetv3_small_100.lamb_in1k").mean == config.mean
