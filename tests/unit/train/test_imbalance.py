"""Balanced sampling, and augmentations that mix the images of a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from tests.train_configs import tiny_config
from train.config.loading import load_config
from train.config.sections import AugmentConfig
from train.data.augment import BatchMix, make_augmentation
from train.data.dataset import EpochSampler
from train.tasks import training_task
from train.tasks.builtin import SegmentationTraining
from train.tasks.losses import OneVsRestCrossEntropy
from tritonkit.errors import ConfigError
from tritonkit.tasks.segmentation import IGNORED

GOOD = "{name: cats, data: {path: pictures}, model: {name: resnet18}, image: {size: 64}}"
SINGLE = [("rare",)] * 5 + [("common",)] * 91


def test_each_class_is_drawn_equally_often_when_balanced() -> None:
    sampler = EpochSampler(SINGLE, seed=0, balanced=True)
    drawn = [index for _, index in sampler]
    assert len(drawn) == len(sampler) == 96
    assert Counter(SINGLE[index] for index in drawn) == {("rare",): 48, ("common",): 48}
    counts = Counter(drawn)
    assert {counts[index] for index in range(5)} == {9, 10}
    assert max(counts[index] for index in range(5, 96)) == 1


def test_each_label_and_no_label_is_drawn_equally_often_when_multilabel() -> None:
    labels = [("a", "b")] * 10 + [("b",)] * 70 + [()] * 10
    drawn = Counter(labels[index] for _, index in EpochSampler(labels, seed=0, balanced=True))
    assert drawn[()] == 30
    assert drawn["a", "b"] >= 30  # those drawn for a, and some of those drawn for b


def test_balanced_order_depends_only_on_seed_and_epoch() -> None:
    sampler = EpochSampler(SINGLE, seed=1, balanced=True)
    first = list(sampler)
    sampler.set_epoch(2)
    assert list(sampler) == list(EpochSampler(SINGLE, seed=1, epoch=2, balanced=True))
    assert [index for _, index in sampler] != [index for _, index in first]


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_batch_is_mixed_by_its_seed_alone_when_configured(options: dict[str, Any]) -> None:
    mix = BatchMix(AugmentConfig(**options), classes=3)
    images = torch.randint(256, (4, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 1])
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    mixed, labels = mix(images, targets, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    again, same_labels = BatchMix(AugmentConfig(**options), classes=3)(images, targets, seed=3)
    assert torch.equal(mixed, again)
    assert torch.equal(labels, same_labels)
    assert mixed.shape == images.shape
    assert torch.allclose(labels.sum(dim=1), torch.ones(4))
    assert ((labels > 0).sum(dim=1) == 2).any()
    assert not torch.equal(mix(images, targets, seed=4)[0], mixed)


def test_batch_is_unchanged_when_augmentation_is_disabled() -> None:
    images, targets = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1])
    assert BatchMix(AugmentConfig(enabled=False, mixup=1), 2)(images, targets, 0)[0] is images


def test_multilabel_targets_are_mixed_when_they_are_floats() -> None:
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    _, labels = BatchMix(AugmentConfig(mixup=0.5), 2)(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), targets, seed=1)
    assert torch.equal(labels[:, 1], torch.ones(2))
    assert labels[0, 0] == pytest.approx(1 - labels[1, 0].item())


def test_bce_of_hard_labels_is_the_same_when_they_are_written_as_floats() -> None:
    logits, classes = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    soft = torch.nn.functional.one_hot(classes, 3).float()
    assert torch.equal(OneVsRestCrossEntropy()(logits, classes), OneVsRestCrossEntropy()(logits, soft))


def test_randaugment_changes_images_by_the_seed_alone() -> None:
    still = {"flip": 0, "shift": 0, "scale": 0, "rotate": 0, "color": 0}
    augment = make_augmentation(AugmentConfig(**still, randaugment=True), (0, 0, 0))
    assert augment is not None
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8))
    changed = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        changed.append(augment(image))
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["task=embedding", "data.sampling=balanced"], "data.per_class sets their batches"),
        (["task=segmentation", "data.sampling=balanced"], "class_weights: balanced"),
        (["task=segmentation", "augment.randaugment=true"], "does not move masks"),
        (["task=embedding", "augment.mixup=0.2"], "augment.mixup: is for multiclass and multilabel"),
        (["augment.cutmix=1", "loss=focal"], "focal cannot learn from mixed labels"),
        (["task=multilabel", "augment.mixup=0.2", "augment.cutmix=1", "loss=asymmetric"], "mixup and cutmix"),
        (["augment.mixup=0"], "augment.mixup"),
        (["augment.randaugment={magnitude: 31}"], "magnitude"),
        (["gradient_clip=-1"], "gradient_clip"),
        (["data.sampling=rare"], "data.sampling"),
    ],
)
def test_key_is_refused_with_its_reason_when_it_makes_no_sense(tmp_path: Path, overrides: list[str], part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.code == "config.invalid"
    assert part in str(caught.value)


def test_randaugment_is_off_when_false(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    assert load_config(path, ["augment.randaugment=false"]).augment.randaugment is None
    assert load_config(path, ["augment.randaugment={num_ops: 3}"]).augment.randaugment.num_ops == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "values", "expected"),
    [
        ({"ignore_index": 7}, [0, 1, 7, 255], [0, 1, 255, 255]),
        ({"ignore_index": 255}, [0, 1, 255], [0, 1, 255]),
        ({"ignore_index": 3, "labels": ["sky", "sea", "land"]}, [2, 0, 3], [2, 0, 255]),
        ({"ignore_index": 9, "mask_values": {"sky": 5, "sea": 6, "ignore": 8}}, [5, 6, 8, 9], [0, 1, 255, 255]),
    ],
)
def test_pixels_of_the_ignored_value_do_not_count_when_it_is_set(
    tmp_path: Path, data: dict[str, Any], values: list[int], expected: list[int]
) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.array([values], np.uint8)).save(mask)
    task = training_task(tiny_config(task="segmentation", data={"path": "x", **data}))
    assert isinstance(task, SegmentationTraining)
    assert task.read_mask(mask).tolist() == [expected]


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=segmentation", "data.ignore_index=0"],
        ["task=segmentation", "data.ignore_index=4", "data.mask_values={sky: 4, sea: 5}"],
        ["task=segmentation", "loss={name: cross_entropy, ignore_index: 0}"],
    ],
)
def test_ignored_value_is_refused_when_a_class_has_it_or_a_loss_sets_it(tmp_path: Path, overrides: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match="ignore_index"):
        load_config(path, overrides)


def test_border_of_a_moved_image_gets_the_fill_colour_and_that_of_its_mask_is_ignored() -> None:
    fill = (10, 200, 100)
    augment = make_augmentation(AugmentConfig(rotate=45, color=0), fill)
    assert augment is not None
    image, mask = torch.zeros(3, 32, 32, dtype=torch.uint8), tv_tensors.Mask(torch.zeros(32, 32, dtype=torch.uint8))
    torch.manual_seed(0)
    pairs = [augment(image, mask) for _ in range(5)]
    for images in ([moved for moved, _ in pairs], [augment(image) for _ in range(5)]):
        assert fill in {tuple(pixel) for pixel in torch.cat(images, dim=1).flatten(1).T.tolist()}
    assert set(torch.cat([moved for _, moved in pairs]).unique().tolist()) == {0, IGNORED}
