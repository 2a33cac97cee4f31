"""The section `pruning` of a training configuration. Loads without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from train.config.pruning_functions import CHANNELS
from tritonkit.evaluation.config import Section

PruningFunction = Literal[
    "l1_unstructured", "random_unstructured", "ln_structured", "random_structured", "remove_channels"
]


class PruningConfig(Section):
    """Sets weights to zero during the training, or removes channels before it."""

    function: PruningFunction = "l1_unstructured"
    """A function of torch.nn.utils.prune, which sets weights to zero: single weights (unstructured), or whole slices
    of a tensor (structured). remove_channels makes the network smaller instead, with torch-pruning."""
    amount: float | int = 0.5
    """What is zero in each tensor when pruning is complete: a share below 1, or a number of weights or slices.
    remove_channels: the share of channels that each layer loses."""
    layers: tuple[str, ...] = ()
    """Patterns of the names of layers or blocks, such as layer3.*.conv2 or layer4. Default: all convolutions and
    linear layers except the last."""
    keys: Annotated[tuple[Literal["weight", "bias"], ...], Field(min_length=1)] = ("weight",)
    """The tensors of a layer."""
    dim: int | None = None
    """ln_structured, random_structured: the axis of the slices; default 0, the output channels."""
    norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """ln_structured: slices with the smallest norm of this order become zero; default 2."""
    when: Literal["start", "epoch", "stage", "end"] | None = None
    """start: all before the first epoch. epoch: a part at the end of each epoch in the first half of the training.
    stage: all at the end of the first stage (frozen_epochs). end: all after the last epoch, without training
    afterwards. Default: epoch; remove_channels: start, the only one it has."""

    @field_validator("amount", mode="before")
    @classmethod
    def _check_amount(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("expected a share between 0 and 1, or a whole number of weights")  # noqa: TRY004 - pydantic's way
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a share lies between 0 and 1, without both: nothing or everything would be pruned")
        if isinstance(value, int) and value < 1:
            raise ValueError("a number of weights is at least 1")
        return value

    @model_validator(mode="after")
    def _check_function(self) -> PruningConfig:
        structured, removes = self.function.endswith("_structured"), self.function == CHANNELS
        if self.dim is not None and not structured:
            raise ValueError(f"dim: {self.function} has no slices; leave dim out")
        if self.norm is not None and self.function != "ln_structured":
            raise ValueError(f"norm: only ln_structured has one, not {self.function}; leave norm out")
        if "bias" in self.keys and (structured or removes):
            raise ValueError(f"keys: {self.function} does not prune a bias alone; use keys: [weight]")
        if removes and isinstance(self.amount, int):
            raise ValueError("amount: remove_channels takes a share of the channels, such as 0.5")
        if removes and self.when not in (None, "start"):
            raise ValueError(f"when: remove_channels runs before the first epoch; use when: start, not {self.when}")
        return self

    @property
    def moment(self) -> Literal["start", "epoch", "stage", "end"]:
        """When it is done, with the default of the function."""
        return self.when or ("start" if self.function == CHANNELS else "epoch")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Prunings = Annotated[tuple[PruningConfig, ...], BeforeValidator(_as_list)]
