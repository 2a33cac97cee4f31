"""The last layers of the tasks: they convert logits to outputs inside the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Softmax(nn.Module):
    """Converts logits [N, C] to probabilities that sum to 1."""

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (raw.softmax(dim=1),)


class Sigmoid(nn.Module):
    """Converts logits [N, C] to independent probabilities."""

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (raw.sigmoid(),)


class UnitLength(nn.Module):
    """Scales vectors [N, D] to length 1."""

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(raw, dim=1),)


class Mask(nn.Module):
    """Converts logits [N, C, H, W] to class numbers uint8 [N, H, W]; optionally adds the foreground probability.

    threshold: minimum probability of the second of two classes; None selects the most probable class.
    probability: also return the foreground's probability [N, H, W].
    """

    def __init__(self, threshold: float | None, probability: bool) -> None:
        super().__init__()
        self.threshold, self.probability = threshold, probability

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        if self.threshold is None:
            return (raw.argmax(dim=1).to(torch.uint8),)
        # The softmax of two logits is the sigmoid of their difference; the threshold is compared as a logit.
        margin = raw[:, 1] - raw[:, 0]
        mask = (margin >= math.log(self.threshold / (1 - self.threshold))).to(torch.uint8)
        return (mask, margin.sigmoid()) if self.probability else (mask,)


class MultiHead(nn.Module):
    """Converts the logits of each head to the outputs of all heads, in their order."""

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        # ModuleDict does not accept every name.
        self.names, self.heads = tuple(heads), nn.ModuleList(heads.values())

    def forward(self, raw: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(output for name, head in zip(self.names, self.heads, strict=True) for output in head(raw[name]))
