"""Losses by name, and weighted sums of them, from torch and the libraries of segmentation and metric learning."""

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

from model.errors import ConfigError, SpecError
from model.plugins import find, plugged_in
from model.spec import TaskSpec
from model.tasks.segmentation import IGNORED
from train.sections import LossTerm, Named

Factory = Callable[..., nn.Module]


class _WithPosWeight(nn.Module):
    """Base of binary cross-entropies whose positive targets weigh more or less."""

    pos_weight: Tensor | None

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight, persistent=False)


class OneForAll(_WithPosWeight):
    """Binary cross-entropy of each class against the rest, for a single right one. Logits [N, C], classes [N]."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        truth = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.pos_weight)


class ForegroundCrossEntropy(_WithPosWeight):
    """Binary cross-entropy of the foreground of two classes. Logits [N, 2, H, W], classes [N, H, W]."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        judged = targets != IGNORED
        margin = (logits[:, 1] - logits[:, 0])[judged]
        if not judged.any():
            return zero_loss(logits)
        truth = targets[judged].to(margin.dtype)
        return F.binary_cross_entropy_with_logits(margin, truth, pos_weight=self.pos_weight)


def zero_loss(logits: Tensor) -> Tensor:
    """The loss of a batch whose pixels are all ignored; a mean over none of them would be NaN."""
    return logits.sum() * 0.0


class _OnIntegers(nn.Module):
    """A loss of pixels that wants class numbers as int64."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if (targets == IGNORED).all():
            return zero_loss(logits)
        value: Tensor = self.loss(logits, targets.long())
        return value


def _of_regions(loss: Factory) -> Factory:
    """A loss of segmentation-models-pytorch over the foreground classes."""

    def made(question: TaskSpec, **arguments: Any) -> nn.Module:
        foreground = list(range(1, len(question.labels)))
        return _OnIntegers(loss(mode="multiclass", classes=foreground, **arguments))

    return made


def _cross_entropy(question: TaskSpec, class_weights: Tensor | None = None, **arguments: Any) -> nn.Module:
    return _OnIntegers(nn.CrossEntropyLoss(weight=class_weights, ignore_index=IGNORED, **arguments))


def _binary(question: TaskSpec, class_weights: Tensor | None = None) -> nn.Module:
    if len(question.labels) != 2:
        raise ConfigError(f"loss bce: is for two labels, there are {len(question.labels)}; use cross_entropy")
    return ForegroundCrossEntropy(None if class_weights is None else class_weights[1] / class_weights[0])


MULTICLASS: dict[str, Factory] = {
    "cross_entropy": lambda question, class_weights=None, **arguments: nn.CrossEntropyLoss(class_weights, **arguments),
    "bce": lambda question, class_weights=None: OneForAll(class_weights),
    "focal": lambda question, **arguments: smp.losses.FocalLoss(mode="multiclass", **arguments),
}
MULTILABEL: dict[str, Factory] = {
    "bce": lambda question, class_weights=None: nn.BCEWithLogitsLoss(pos_weight=class_weights),
    "focal": lambda question, **arguments: smp.losses.FocalLoss(mode="multilabel", **arguments),
    "asymmetric": lambda question, **arguments: AsymmetricLossMultiLabel(**arguments),
}
SEGMENTATION: dict[str, Factory] = {
    "dice": lambda question, **arguments: _of_regions(smp.losses.DiceLoss)(question, ignore_index=IGNORED, **arguments),
    "cross_entropy": _cross_entropy,
    "bce": _binary,
    "focal": lambda question, **arguments: _OnIntegers(
        smp.losses.FocalLoss(mode="multiclass", ignore_index=IGNORED, **arguments)
    ),
}
WEIGHTED = ("cross_entropy", "bce", "focal")
"""The losses that take weights of classes."""
PAIRS = {"arcface": "ArcFaceLoss", "triplet": "TripletMarginLoss", "contrastive": "ContrastiveLoss"}
"""Short names for losses of pytorch-metric-learning; all others go by their class."""


def add_up(parts: Sequence[Tensor]) -> Tensor:
    """The sum of scalars."""
    return torch.stack(list(parts)).sum()


class WeightedSum(nn.Module):
    """Each loss of (logits, targets) times its weight, added up."""

    def __init__(
        self,
        losses: Sequence[nn.Module],
        weights: Sequence[float],
        class_weights: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """class_weights: by loss, the weight of each label, to be shown."""
        super().__init__()
        self.losses, self.weights = nn.ModuleList(losses), tuple(weights)
        self.class_weights = dict(class_weights or {})

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        parts = [weight * loss(logits, targets) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return add_up(parts)


def weighted_sum(
    terms: Sequence[LossTerm] | None,
    usual: str,
    table: Mapping[str, Factory],
    question: TaskSpec,
    balanced: Callable[[], Mapping[str, float]] | None = None,
) -> nn.Module:
    """The losses asked for, from a task's table or a plugin's. Raises ConfigError.

    balanced: the weight of each label that makes rare ones count as much as common ones; None where a task has none.
    """
    terms = terms or (LossTerm(name=usual),)
    mining = [term.name for term in terms if term.miner is not None]
    if mining:
        raise ConfigError(f"loss {mining[0]}: a miner is for the losses of metric learning")
    losses, shown = [], {}
    for term in terms:
        factory = table.get(term.name)
        if term.class_weights is not None:
            shown[term.name] = weights = class_weights(term, question.labels, balanced)
            tensor = torch.tensor([weights[label] for label in question.labels])
            factory = factory and functools.partial(factory, class_weights=tensor)
        losses.append(_made(term, factory, [*table], question))
    return WeightedSum(losses, [term.weight for term in terms], shown)


def class_weights(
    term: LossTerm, labels: Sequence[str], balanced: Callable[[], Mapping[str, float]] | None
) -> dict[str, float]:
    """The weight of each label in a loss. Raises ConfigError."""
    wanted, known = term.class_weights or (), f"{', '.join(labels):.300}"
    if term.name not in WEIGHTED:
        raise ConfigError(f"loss {term.name}: takes no class_weights; {', '.join(WEIGHTED)} do")
    if wanted == "balanced":
        if balanced is None:
            raise ConfigError(f"loss {term.name}: class_weights: balanced is not for this task; give a weight a label")
        return dict(balanced())
    if isinstance(wanted, Mapping):
        if strangers := set(wanted) - set(labels):
            raise ConfigError(f"loss {term.name}: class_weights for {', '.join(sorted(strangers))}; there are {known}")
        return {label: wanted.get(label, 1.0) for label in labels}
    if len(wanted) != len(labels):
        counts = f"{len(wanted)} class_weights, expected one for each of {len(labels)} labels"
        raise ConfigError(f"loss {term.name}: {counts}, in this order: {known}")
    return dict(zip(labels, map(float, wanted), strict=True))


def balanced_weights(counts: Mapping[str, int], labels: Sequence[str]) -> dict[str, float]:
    """n / (classes x n of the class), as scikit-learn's `balanced`. Raises ConfigError for a class without any."""
    if without := [label for label in labels if not counts.get(label)]:
        raise ConfigError(f"class_weights: balanced: there is nothing of {', '.join(without):.300} in train")
    total = sum(counts[label] for label in labels)
    return {label: total / (len(labels) * counts[label]) for label in labels}


def embedding_losses(terms: Sequence[LossTerm] | None, usual: str, classes: int, size: int) -> nn.Module:
    """The losses of pytorch-metric-learning asked for, each with its miner. Raises ConfigError."""
    terms = terms or (LossTerm(name=usual),)
    if any(term.class_weights is not None for term in terms):
        raise ConfigError("class_weights: are for losses of labels, not for those of metric learning")
    known = sorted([*PAIRS, *(name for name in dir(metric_losses) if name.endswith("Loss"))])
    facts = {"num_classes": classes, "embedding_size": size}
    losses = []
    for term in terms:
        kind = getattr(metric_losses, PAIRS.get(term.name, term.name), None)
        loss = _made(term, kind and _knowing(kind, facts), known)
        losses.append(_Mined(loss, None if term.miner is None else _miner(term.miner)))
    return WeightedSum(losses, [term.weight for term in terms])


class _Mined(nn.Module):
    def __init__(self, loss: nn.Module, miner: nn.Module | None) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, vectors: Tensor, classes: Tensor) -> Tensor:
        """The loss over the pairs or triplets that the miner picks."""
        picked = () if self.miner is None else (self.miner(vectors, classes),)
        value: Tensor = self.loss(vectors, classes, *picked)
        return value


def _knowing(kind: Factory, facts: Mapping[str, int]) -> Factory:
    """The class with the facts about the data that its constructor asks for."""
    asked = {name for each in inspect.getmro(kind) for name in inspect.signature(each.__init__).parameters}  # type: ignore[arg-type,misc]
    return lambda **arguments: kind(**{name: value for name, value in facts.items() if name in asked}, **arguments)


def _miner(miner: Named) -> nn.Module:
    known = [name for name in dir(miners) if name.endswith("Miner")]
    return _made(miner, getattr(miners, miner.name, None), known, what="miner")


def _made(term: Named, factory: Factory | None, known: Sequence[str], *facts: Any, what: str = "loss") -> nn.Module:
    """The thing of this name: from the library, or what a plugin has registered as such."""
    if factory is None and what == "loss" and (":" in term.name or term.name in plugged_in("loss")):
        try:
            factory, facts = find("loss", term.name), ()
        except SpecError as error:
            raise ConfigError(str(error)) from error
    if factory is None:
        near = difflib.get_close_matches(term.name, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
        raise ConfigError(f"{what}: none is named {term.name!r} for this task{hint}")
    try:
        made = factory(*facts, **term.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} {term.name}: its arguments {dict(term.arguments)} do not fit: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{what} {term.name}: expected a torch module, got {type(made).__name__}")
    return made
