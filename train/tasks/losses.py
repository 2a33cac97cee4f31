"""Losses by name and their weighted sums, from torch, segmentation-models-pytorch and pytorch-metric-learning."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
from pytorch_metric_learning import losses as metric_losses
from pytorch_metric_learning import miners
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from torch import Tensor, nn
from torch.nn import functional as F

from train.config.sections import LossTerm, NamedComponent
from tritonkit.errors import ConfigError, SpecError
from tritonkit.plugins import find_plugin, registered_plugins
from tritonkit.spec import TaskSpec
from tritonkit.tasks.segmentation import IGNORED

Factory = Callable[..., nn.Module]


class _WithPosWeight(nn.Module):
    """Base class of binary cross-entropies with a weight for positive targets."""

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight, persistent=False)


class OneVsRestCrossEntropy(_WithPosWeight):
    """Binary cross-entropy of each class against the rest. Logits [N, C], classes [N] or mixed labels [N, C]."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        labels = targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1])
        truth = labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.pos_weight)


class ForegroundCrossEntropy(_WithPosWeight):
    """Binary cross-entropy of the foreground, for two classes. Logits [N, 2, H, W], classes [N, H, W]."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        counted = targets != IGNORED
        margin = (logits[:, 1] - logits[:, 0])[counted]
        if not counted.any():
            return zero_loss(logits)
        truth = targets[counted].to(margin.dtype)
        return F.binary_cross_entropy_with_logits(margin, truth, pos_weight=self.pos_weight)


def zero_loss(logits: Tensor) -> Tensor:
    """Return the loss of a batch whose pixels are all ignored; the mean over no pixels would be NaN."""
    return logits.sum() * 0.0


class _IntegerTargetLoss(nn.Module):
    """Calls a pixel loss with class numbers as int64."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if (targets == IGNORED).all():
            return zero_loss(logits)
        value: Tensor = self.loss(logits, targets.long())
        return value


def _region_loss(loss: Factory) -> Factory:
    """Wrap a region loss of segmentation-models-pytorch for the foreground classes."""

    def create(task_spec: TaskSpec, **arguments: Any) -> nn.Module:
        foreground = list(range(1, len(task_spec.labels)))
        return _IntegerTargetLoss(loss(mode="multiclass", classes=foreground, **arguments))

    return create


def _cross_entropy(task_spec: TaskSpec, class_weights: Tensor | None = None, **arguments: Any) -> nn.Module:
    return _IntegerTargetLoss(nn.CrossEntropyLoss(weight=class_weights, ignore_index=IGNORED, **arguments))


def _binary(task_spec: TaskSpec, class_weights: Tensor | None = None) -> nn.Module:
    if len(task_spec.labels) != 2:
        raise ConfigError(
            f"loss bce: is for two labels, got {len(task_spec.labels)}; use cross_entropy",
            code="config.loss_label_count",
        )
    return ForegroundCrossEntropy(None if class_weights is None else class_weights[1] / class_weights[0])


MULTICLASS: dict[str, Factory] = {
    "cross_entropy": lambda task_spec, class_weights=None, **arguments: nn.CrossEntropyLoss(class_weights, **arguments),
    "bce": lambda task_spec, class_weights=None: OneVsRestCrossEntropy(class_weights),
    "focal": lambda task_spec, **arguments: smp.losses.FocalLoss(mode="multiclass", **arguments),
}
MULTILABEL: dict[str, Factory] = {
    "bce": lambda task_spec, class_weights=None: nn.BCEWithLogitsLoss(pos_weight=class_weights),
    "focal": lambda task_spec, **arguments: smp.losses.FocalLoss(mode="multilabel", **arguments),
    "asymmetric": lambda task_spec, **arguments: AsymmetricLossMultiLabel(**arguments),
}
SEGMENTATION: dict[str, Factory] = {
    "dice": lambda task_spec, **arguments: _region_loss(smp.losses.DiceLoss)(
        task_spec, ignore_index=IGNORED, **arguments
    ),
    "cross_entropy": _cross_entropy,
    "bce": _binary,
    "focal": lambda task_spec, **arguments: _IntegerTargetLoss(
        smp.losses.FocalLoss(mode="multiclass", ignore_index=IGNORED, **arguments)
    ),
}
CLASS_WEIGHTED_LOSSES = ("cross_entropy", "bce", "focal")
"""The losses that support class weights."""
METRIC_LOSS_NAMES = {"arcface": "ArcFaceLoss", "triplet": "TripletMarginLoss", "contrastive": "ContrastiveLoss"}
"""Short names for losses of pytorch-metric-learning; all others are named by their class."""


def add_up(parts: Sequence[Tensor]) -> Tensor:
    """Sum scalars."""
    return torch.stack(list(parts)).sum()


class WeightedSum(nn.Module):
    """The weighted sum of several losses of (logits, targets)."""

    def __init__(
        self,
        losses: Sequence[nn.Module],
        weights: Sequence[float],
        class_weights: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """class_weights: by loss, the weight of each label; only for display."""
        super().__init__()
        self.losses, self.weights = nn.ModuleList(losses), tuple(weights)
        self.class_weights = dict(class_weights or {})

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        parts = [weight * loss(logits, targets) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return add_up(parts)


def weighted_sum(
    terms: Sequence[LossTerm] | None,
    default: str,
    table: Mapping[str, Factory],
    task_spec: TaskSpec,
    balanced: Callable[[], Mapping[str, float]] | None = None,
) -> nn.Module:
    """Build the configured losses, from a task's table or from plugins. Raises ConfigError.

    balanced: computes weights by which rare labels count as much as common ones; None if the task has none.
    """
    terms = terms or (LossTerm(name=default),)
    with_miner = [term.name for term in terms if term.miner is not None]
    if with_miner:
        raise ConfigError(
            f"loss {with_miner[0]}: a miner is only for losses of metric learning", code="config.miner_not_supported"
        )
    losses, all_class_weights = [], {}
    for term in terms:
        factory = table.get(term.name)
        if term.class_weights is not None:
            all_class_weights[term.name] = weights = class_weights(term, task_spec.labels, balanced)
            tensor = torch.tensor([weights[label] for label in task_spec.labels])
            factory = factory and functools.partial(factory, class_weights=tensor)
        losses.append(_build_component(term, factory, [*table], task_spec))
    return WeightedSum(losses, [term.weight for term in terms], all_class_weights)


def class_weights(
    term: LossTerm, labels: Sequence[str], balanced: Callable[[], Mapping[str, float]] | None
) -> dict[str, float]:
    """Compute the weight of each label in a loss. Raises ConfigError."""
    configured, known = term.class_weights or (), f"{', '.join(labels):.300}"
    if term.name not in CLASS_WEIGHTED_LOSSES:
        raise ConfigError(
            f"loss {term.name}: does not support class_weights; {', '.join(CLASS_WEIGHTED_LOSSES)} do",
            code="config.class_weights_not_supported",
        )
    if configured == "balanced":
        if balanced is None:
            raise ConfigError(
                f"loss {term.name}: class_weights: balanced is not for this task; set a weight for each label",
                code="config.class_weights_balanced",
            )
        return dict(balanced())
    if isinstance(configured, Mapping):
        if unknown := set(configured) - set(labels):
            raise ConfigError(
                f"loss {term.name}: class_weights for unknown {', '.join(sorted(unknown))}; the labels are {known}",
                code="config.class_weights_unknown_label",
            )
        return {label: configured.get(label, 1.0) for label in labels}
    if len(configured) != len(labels):
        counts = f"{len(configured)} class_weights, expected one for each of {len(labels)} labels"
        raise ConfigError(f"loss {term.name}: {counts}, in this order: {known}", code="config.class_weights_count")
    return dict(zip(labels, map(float, configured), strict=True))


def balanced_weights(counts: Mapping[str, int], labels: Sequence[str]) -> dict[str, float]:
    """Compute n / (classes * n of the class), like scikit-learn's `balanced`. Raises ConfigError for an empty class."""
    if empty := [label for label in labels if not counts.get(label)]:
        raise ConfigError(
            f"class_weights: balanced: train has no samples of {', '.join(empty):.300}",
            code="config.class_weights_empty_class",
        )
    total = sum(counts[label] for label in labels)
    return {label: total / (len(labels) * counts[label]) for label in labels}


def embedding_losses(terms: Sequence[LossTerm] | None, default: str, classes: int, size: int) -> nn.Module:
    """Build the configured losses of pytorch-metric-learning, each with its miner. Raises ConfigError."""
    terms = terms or (LossTerm(name=default),)
    if any(term.class_weights is not None for term in terms):
        raise ConfigError(
            "class_weights: are not supported by losses of metric learning", code="config.class_weights_not_supported"
        )
    known = sorted([*METRIC_LOSS_NAMES, *(name for name in dir(metric_losses) if name.endswith("Loss"))])
    data_arguments = {"num_classes": classes, "embedding_size": size}
    losses = []
    for term in terms:
        kind = getattr(metric_losses, METRIC_LOSS_NAMES.get(term.name, term.name), None)
        loss = _build_component(term, kind and _with_data_arguments(kind, data_arguments), known)
        losses.append(_MinedLoss(loss, None if term.miner is None else _miner(term.miner)))
    return WeightedSum(losses, [term.weight for term in terms])


class _MinedLoss(nn.Module):
    def __init__(self, loss: nn.Module, miner: nn.Module | None) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """Compute the loss over the pairs or triplets that the miner selects."""
        mined = () if self.miner is None else (self.miner(vectors, classes),)
        value: Tensor = self.loss(vectors, classes, *mined)
        return value


def _with_data_arguments(kind: Factory, data_arguments: Mapping[str, int]) -> Factory:
    """Bind those arguments about the data that the constructor of a class accepts."""
    accepted = {name for each in inspect.getmro(kind) for name in inspect.signature(each.__init__).parameters}  # type: ignore[arg-type,misc]
    bound = {name: value for name, value in data_arguments.items() if name in accepted}
    return lambda **arguments: kind(**bound, **arguments)


def _miner(miner: NamedComponent) -> nn.Module:
    known = [name for name in dir(miners) if name.endswith("Miner")]
    return _build_component(miner, getattr(miners, miner.name, None), known, kind="miner")


def _build_component(
    term: NamedComponent, factory: Factory | None, known: Sequence[str], *arguments: Any, kind: str = "loss"
) -> nn.Module:
    """Create a loss or a miner by its name, from the library or from a plugin. Raises ConfigError."""
    if factory is None and kind == "loss" and (":" in term.name or term.name in registered_plugins("loss")):
        try:
            factory, arguments = find_plugin("loss", term.name), ()
        except SpecError as error:
            raise ConfigError(str(error), code=error.code) from error
    if factory is None:
        similar = difflib.get_close_matches(term.name, known, n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else f"; choose one of {', '.join(known)}"
        raise ConfigError(f"{kind}: this task has none named {term.name!r}{hint}", code="config.unknown_loss")
    try:
        component = factory(*arguments, **term.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{kind} {term.name}: invalid arguments {dict(term.arguments)}: {error}", code="config.loss_arguments"
        ) from error
    if not isinstance(component, nn.Module):
        raise ConfigError(
            f"{kind} {term.name}: expected a torch module, got {type(component).__name__}", code="config.loss_type"
        )
    return component
