"""Networks with a planted fault, and what a verdict says of them."""

from __future__ import annotations

import copy

from torch import Tensor

from tritonkit.networks.network import Network
from tritonkit.repository.verdict import Verdict


class ChannelsSwapped(Network):
    """Expects BGR."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.flip(-1))


class OnItsSide(Network):
    """Expects transposed images."""

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(images.transpose(1, 2))


def as_faulty(kind: type[Network], network: Network) -> Network:
    """The network with the fault of this class."""
    faulty = copy.copy(network)
    faulty.__class__ = kind
    return faulty


def problems(verdict: Verdict) -> str:
    return "\n".join(f"{problem.code}: {problem.message}" for problem in verdict.problems)
