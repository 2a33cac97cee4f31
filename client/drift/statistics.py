"""Two-sample tests with effect sizes. A sample is a float array [N, D], a row for each image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact, ks_2samp

Sample = NDArray[np.floating]
MAX_KERNEL_IMAGES = 500
"""Images of each sample in the MMD, whose kernel is quadratic; few enough that only visible changes are significant."""
_Z_95 = 1.96
_NEIGHBOURS = 5


class Share(NamedTuple):
    """The share of reference images and of pictures with a label, 0..1, with the 95 % interval of the change."""

    reference: float
    current: float
    low: float
    high: float


def ks_tests(reference: Sample, current: Sample) -> list[tuple[float, float]]:
    """Kolmogorov-Smirnov test of each of D columns: the distance of the distributions, 0..1, and the p-value.

    The asymptotic p-value, which is on the safe side for values with ties.
    """
    tests = [ks_2samp(*columns, method="asymp") for columns in zip(reference.T, current.T, strict=True)]
    return [(float(test.statistic), min(1.0, float(test.pvalue))) for test in tests]


def mmd_test(reference: Sample, current: Sample, permutations: int, seed: int = 0) -> tuple[float, float]:
    """The unbiased squared MMD of two samples, and its p-value from random permutations of their union.

    The kernel is Gaussian, and its width the median distance (Gretton et al., A Kernel Two-Sample Test, JMLR 2012).
    Of larger samples, MAX_KERNEL_IMAGES random rows are used.
    """
    random = np.random.default_rng(seed)
    parts = [
        sample[random.choice(len(sample), min(len(sample), MAX_KERNEL_IMAGES), replace=False)].astype(np.float64)
        for sample in (reference, current)
    ]
    count, total = len(parts[0]), len(parts[0]) + len(parts[1])
    squared = _squared_distances(np.concatenate(parts), np.concatenate(parts))
    positive = squared[np.triu_indices(total, 1)]
    width = float(np.median(positive)) or float(positive.mean()) or 1.0
    kernel = np.exp(-squared / (2 * width)).astype(np.float32)
    np.fill_diagonal(kernel, 0)
    # Row 0 is the real division into two samples, the others are random ones.
    real = np.repeat(np.array([[1, 0]], np.float32), (count, total - count), axis=1)
    is_first = np.concatenate([real, random.permuted(np.repeat(real, permutations, axis=0), axis=1)])
    with_first = is_first @ kernel
    both_first = (with_first * is_first).sum(axis=1, dtype=np.float64)
    across = with_first.sum(axis=1, dtype=np.float64) - both_first
    both_second = kernel.sum(dtype=np.float64) - both_first - 2 * across
    first, second = count, total - count
    mmd = both_first / (first * (first - 1)) + both_second / (second * (second - 1)) - 2 * across / (first * second)
    # The tolerance: single precision, in which equal divisions differ by the order of the sum.
    return float(mmd[0]), float((mmd >= mmd[0] - 1e-6).mean())


def share_test(reference: int, of_reference: int, current: int, of_current: int) -> tuple[Share, float, float]:
    """Compare the share of images with a label: the shares, the shift and the p-value of Fisher's exact test.

    The interval is Newcombe's, of Wilson's for each share (Statistics in Medicine 17, 1998). The shift is half of
    Cohen's h, asin(sqrt(current)) - asin(sqrt(reference)): about the change of a share near one half, and more for rare
    labels.
    """
    before, after = reference / of_reference, current / of_current
    low_before, high_before = _wilson(before, of_reference)
    low_after, high_after = _wilson(after, of_current)
    change = after - before
    low = change - float(np.hypot(after - low_after, high_before - before))
    high = change + float(np.hypot(high_after - after, before - low_before))
    p = float(fisher_exact([[reference, of_reference - reference], [current, of_current - current]]).pvalue)
    shift = float(np.arcsin(np.sqrt(after)) - np.arcsin(np.sqrt(before)))
    return Share(before, after, low, high), shift, min(1.0, p)


def remoteness(reference: Sample, current: Sample) -> NDArray[np.float64]:
    """How far each of M pictures lies from the reference images, [M]: the share of reference images that lie closer.

    Compared is the mean distance to the five nearest reference images, for a reference image without itself. A
    thousandth of the relative distance is added, which orders pictures beyond all reference images.
    """
    scale = reference.astype(np.float64).std(axis=0)
    scale[scale == 0] = 1
    known, values = reference / scale, current / scale
    own = _squared_distances(known, known)
    np.fill_diagonal(own, np.inf)
    nearest_own, nearest = (
        np.sqrt(np.sort(squared, axis=1)[:, :_NEIGHBOURS]).mean(axis=1)
        for squared in (own, _squared_distances(values, known))
    )
    closer = np.searchsorted(np.sort(nearest_own), nearest) / len(known)
    order: NDArray[np.float64] = closer + 1e-3 * nearest / (nearest.max() + 1)
    return order


def _squared_distances(first: Sample, second: Sample) -> NDArray[np.float64]:
    first, second = first.astype(np.float64), second.astype(np.float64)
    squares: NDArray[np.float64] = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return squares.clip(min=0)


def _wilson(share: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (JASA 22, 1927)."""
    square = _Z_95**2
    centre = (share + square / (2 * images)) / (1 + square / images)
    half = _Z_95 * float(np.sqrt(share * (1 - share) / images + square / (4 * images**2))) / (1 + square / images)
    return max(0.0, centre - half), min(1.0, centre + half)
