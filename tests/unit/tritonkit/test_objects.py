"""Objects of masks: regions, boxes in the original image, RLE, crops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tritonkit.images.crops import CropSettings, MaskedObject, crop_object
from tritonkit.images.objects import from_rle, objects_of, to_rle
from tritonkit.images.preprocess import Geometry, Preprocess, fit_image

SIZE = (200, 100)


def squashed() -> Geometry:
    """An image of 200 x 100 pixels, squashed to 50 x 50."""
    return fit_image(Image.new("RGB", SIZE), Preprocess(50, 50, "squash"))[1]


def mask_with(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((50, 50), np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 1
    return mask


def test_each_region_is_an_object_with_its_box_in_the_original_image() -> None:
    found = objects_of(mask_with((30, 5, 40, 20), (10, 10, 20, 30)), squashed(), 1, 0.001)
    assert [entry.box for entry in found] == [(120, 10, 160, 40), (40, 20, 80, 60)]
    assert all(entry.mask.all() and entry.mask.dtype == np.bool_ for entry in found)


def test_regions_that_touch_at_a_corner_are_one_object_and_small_ones_none() -> None:
    mask = mask_with((0, 0, 10, 10), (10, 10, 20, 20), (40, 40, 42, 42))
    found = objects_of(mask, squashed(), 1, 5 / 2500)
    assert [entry.box for entry in found] == [(0, 0, 80, 40)]


def test_more_than_255_regions_are_all_found() -> None:
    mask = np.zeros((50, 50), np.uint8)
    mask[::3, ::3] = 1
    assert len(objects_of(mask, squashed(), 1, 0)) == 17 * 17


def test_a_mask_without_the_class_has_no_objects() -> None:
    assert objects_of(mask_with(), squashed(), 1, 0.001) == []
    assert objects_of(mask_with((0, 0, 9, 9)), squashed(), 2, 0.001) == []


def test_objects_outside_the_cropped_part_of_a_padded_image_vanish() -> None:
    geometry = fit_image(Image.new("RGB", SIZE), Preprocess(50, 50, "pad"))[1]
    assert objects_of(mask_with((0, 0, 50, 10)), geometry, 1, 0.001) == []


def test_rle_restores_box_and_mask() -> None:
    mask = mask_with((10, 10, 20, 30))
    mask[12:15, 12:15] = 0
    (found,) = objects_of(mask, squashed(), 1, 0.001)
    restored = from_rle(to_rle(found, SIZE), SIZE)
    assert restored.box == found.box
    np.testing.assert_array_equal(restored.mask, found.mask)


def test_rle_is_that_of_pycocotools_for_any_box() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(500):
        width, height = map(int, numbers.integers(1, 9, 2))
        left, top = int(numbers.integers(width)), int(numbers.integers(height))
        right, bottom = int(numbers.integers(left, width)) + 1, int(numbers.integers(top, height)) + 1
        mask = numbers.random((bottom - top, right - left)) < numbers.choice([0.1, 0.5, 1])
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[top:bottom, left:right] = mask
        counts = to_rle(MaskedObject((left, top, right, bottom), mask), (width, height))
        assert counts == coco.encode(whole)["counts"].decode()
        if mask.any():
            rows, columns = np.nonzero(whole)
            restored = from_rle(counts, (width, height))
            assert restored.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            left, top, right, bottom = restored.box
            np.testing.assert_array_equal(restored.mask, whole[top:bottom, left:right])


def test_many_small_objects_of_the_largest_image_are_encoded_quickly() -> None:
    size, mask = (10_000, 10_000), np.ones((5, 5), np.bool_)
    started = time.process_time()
    for number in range(2000):
        to_rle(MaskedObject((number, number, number + 5, number + 5), mask), size)
    assert time.process_time() - started < 5  # 140 s if each wrote the whole image


def test_rle_without_pixels_is_refused() -> None:
    empty = to_rle(MaskedObject((0, 0, 1, 1), np.zeros((1, 1), np.bool_)), SIZE)
    with pytest.raises(ValueError, match="no pixels"):
        from_rle(empty, SIZE)


def test_a_crop_has_a_margin_inside_the_image_and_no_background_when_it_is_removed() -> None:
    image = Image.new("RGB", SIZE, (200, 0, 0))
    mask = mask_with((0, 10, 20, 30))
    mask[10, 0] = 0
    (found,) = objects_of(mask, squashed(), 1, 0.001)
    kept = crop_object(image, found, CropSettings(margin=0.1))
    removed = crop_object(image, found, CropSettings(margin=0.1, background="remove", fill=(0, 0, 9)))
    assert kept.size == removed.size == (88, 48)  # 80 x 40, 8 on the right, 4 above and below
    assert kept.getpixel((0, 5)) == (200, 0, 0)
    assert removed.getpixel((0, 5)) == removed.getpixel((87, 20)) == (0, 0, 9)
    assert removed.getpixel((40, 20)) == (200, 0, 0)


@pytest.mark.parametrize("field", [{"margin": -1}, {"background": "blur"}, {"min_share": 1}, {"fill": (0, 0, 256)}])
def test_wrong_settings_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        CropSettings(**field)  # type: ignore[arg-type]
