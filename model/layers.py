"""The last layers of the tasks: from the head's raw values to the outputs, inside the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Softmax(nn.Module):
    """[N, C] to probabilities that sum to 1."""

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (raw.softmax(dim=1),)


class Sigmoid(nn.Module):
    """[N, C] to probabilities, each by itself."""

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (raw.sigmoid(),)


class UnitLength(nn.Module):
    """[N, D] to vectors of length 1."""

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(raw, dim=1),)


class Mask(nn.Module):
    """[N, C, H, W] to class numbers uint8 [N, H, W], and on request the foreground's probability [N, H, W].

    threshold: of the second of two classes; None takes the most probable class.
    """

    def __init__(self, threshold: float | None, probability: bool) -> None:
        super().__init__()
        self.threshold, self.probability = threshold, probability

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        if self.threshold is None:
            return (raw.argmax(dim=1).to(torch.uint8),)
        # A softmax of two is the sigmoid of their difference, which a threshold cuts at its logit.
        margin = raw[:, 1] - raw[:, 0]
        mask = (margin >= math.log(self.threshold / (1 - self.threshold))).to(torch.uint8)
        return (mask, margin.sigmoid()) if self.probability else (mask,)


class MultiHead(nn.Module):
    """Raw values by head to the outputs of all heads, in their order."""

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        # Not a ModuleDict, which takes not every name.
        self.names, self.heads = tuple(heads), nn.ModuleList(heads.values())

    def forward(self, raw: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(output for name, head in zip(self.names, self.heads, strict=True) for output in head(raw[name]))
