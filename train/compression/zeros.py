"""Sets weights to zero during the training, with the functions of torch.nn.utils.prune, and keeps them zero.

Lightning's ModelPruning does not serve: while it prunes, a weight has the keys `weight_orig` and `weight_mask`, which
neither an exponential moving average nor a resumed run can read, a resumed run forgets what was zero, and `amount` is
taken again from the rest at each epoch. Here the masks are part of the callback's state, and the keys stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.utils import prune

from train.compression.layers import select_layers
from train.config.loading import Config
from train.config.pruning import PruningConfig
from train.config.pruning_functions import ZEROS
from train.data.dataset import mix_seeds
from tritonkit.errors import ConfigError
from tritonkit.networks.network import Network


@dataclass(frozen=True)
class PrunedTensor:
    """A tensor to prune: the key of its mask, its layer, and the section of the configuration that selects it."""

    name: str
    layer: nn.Module
    key: str
    section: PruningConfig

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter itself."""
        return self.layer.get_parameter(self.key)

    @property
    def is_structured(self) -> bool:
        """Whether whole slices become zero."""
        return self.section.function.endswith("_structured")

    @property
    def size(self) -> int:
        """The number of weights, or of slices."""
        return self.tensor.shape[self.section.dim or 0] if self.is_structured else self.tensor.numel()

    @property
    def target(self) -> int:
        """The number of weights or slices that are zero when pruning is complete."""
        amount = self.section.amount
        return amount if isinstance(amount, int) else round(amount * self.size)

    def zero_count(self, mask: Tensor) -> int:
        """Count the weights or slices that a mask sets to zero."""
        if self.is_structured:
            mask = mask.movedim(self.section.dim or 0, 0).flatten(1).any(dim=1)
        return int((~mask).sum())

    def prune_more(self, mask: Tensor, count: int) -> Tensor:
        """Return the mask with `count` more weights or slices set to zero."""
        # A module of its own: the functions replace the parameter of the module that they get.
        scratch = nn.Module()
        scratch.register_parameter("weight", nn.Parameter(self.tensor.detach().clone()))
        prune.custom_from_mask(scratch, "weight", mask)  # type: ignore[no-untyped-call]
        arguments: dict[str, Any] = {"dim": self.section.dim or 0} if self.is_structured else {}
        if self.section.function == "ln_structured":
            arguments["n"] = self.section.norm or 2
        function: Callable[..., object] = getattr(prune, self.section.function)
        function(scratch, "weight", amount=count, **arguments)
        return scratch.get_buffer("weight_mask").bool()


def share_after(section: PruningConfig, epoch: int, config: Config) -> float:
    """Return the share of a section's amount that is zero at the end of an epoch; epoch -1 is the start."""
    match section.moment:
        case "start":
            return 1.0
        case "stage":
            return float(epoch + 1 >= config.frozen_epochs)
        case "end":
            return float(epoch + 1 >= config.total_epochs)
    return min(1.0, (epoch + 1) / math.ceil(config.total_epochs / 2))


def first_complete_epoch(config: Config) -> int:
    """Return the first epoch at whose end everything is pruned; only from then on an epoch can be the best."""
    return next(
        epoch
        for epoch in range(config.total_epochs)
        if all(share_after(section, epoch, config) == 1 for section in config.pruning)
    )


def pruned_tensors(network: Network, config: Config) -> tuple[PrunedTensor, ...]:
    """Return the tensors that the configuration sets to zero. Raises ConfigError that says what does not fit."""
    found: dict[str, PrunedTensor] = {}
    for section in config.pruning:
        if section.function not in ZEROS:
            continue
        for pruned in _tensors_of(network, section):
            if pruned.name in found:
                raise ConfigError(
                    f"pruning: two sections select {pruned.name}; give them different `layers`", code="pruning.overlap"
                )
            found[pruned.name] = pruned
    return tuple(found.values())


def _tensors_of(network: Network, section: PruningConfig) -> Iterator[PrunedTensor]:
    selected = [
        PrunedTensor(f"{name}.{key}", layer, key, section)
        for name, layer in select_layers(network, section).items()
        for key in section.keys
        if getattr(layer, key, None) is not None
    ]
    if not selected:
        raise ConfigError(
            f"pruning: the selected layers of {network.spec.architecture.name} have no {' or '.join(section.keys)}",
            code="pruning.no_tensors",
        )
    for pruned in selected:
        axes, dim = pruned.tensor.ndim, section.dim or 0
        if pruned.is_structured and not -axes <= dim < axes:
            raise ConfigError(
                f"pruning.dim: {pruned.name} has {axes} axes {list(pruned.tensor.shape)}, so {dim} is none of them",
                code="pruning.dim",
            )
        if pruned.target >= pruned.size:
            raise ConfigError(
                f"pruning.amount: {section.amount} would set all of {pruned.name} to zero, which has {pruned.size}; "
                "lower it, or select other `layers`",
                code="pruning.amount",
            )
    if not any(pruned.target for pruned in selected):
        raise ConfigError(
            f"pruning.amount: {section.amount} is less than one of {selected[0].size} in {selected[0].name}, so "
            "nothing would be pruned; raise it",
            code="pruning.amount",
        )
    yield from selected


class ZeroWeights(Callback):
    """Sets weights to zero when the configuration says so, and keeps them zero after each step."""

    def __init__(self, tensors: tuple[PrunedTensor, ...], config: Config) -> None:
        self._tensors, self._config = tensors, config
        self._masks: dict[str, Tensor] = {}
        """False where a weight is zero."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._masks = {name: mask.to(pl_module.device) for name, mask in self._masks.items()}
        self._prune(trainer.current_epoch - 1)

    def on_train_batch_end(self, *_: Any) -> None:
        # The optimizer's momentum moves weights whose gradient is zero.
        self._apply()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._prune(trainer.current_epoch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The module has the averaged weights now, if the configuration has `ema`.
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self._masks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._masks = state_dict["masks"]

    def _prune(self, epoch: int) -> None:
        """Prune as much as is due at the end of an epoch; -1 is the start."""
        with torch.random.fork_rng():
            torch.manual_seed(mix_seeds(self._config.seed, epoch + 1))
            for pruned in self._tensors:
                mask = self._masks.get(pruned.name, torch.ones_like(pruned.tensor, dtype=torch.bool))
                due = round(share_after(pruned.section, epoch, self._config) * pruned.target)
                if (count := due - pruned.zero_count(mask)) > 0:
                    self._masks[pruned.name] = pruned.prune_more(mask, count)
        self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        for pruned in self._tensors:
            if (mask := self._masks.get(pruned.name)) is not None:
                pruned.tensor.mul_(mask)
