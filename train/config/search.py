"""The section `search` of a training configuration. Loads without torch and optuna."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tritonkit.evaluation.config import Section

_FIXED = ("name", "output", "export", "search", "plugins", "trackers")
"""Keys that are the same in all trials."""
_DEFAULT_TRIALS = 20


class SearchParameter(Section):
    """The values of one key: a list of choices, or a range of numbers."""

    choices: Annotated[tuple[JsonValue, ...], Field(min_length=1)] | None = None
    """A list in place of the section is the same."""
    low: int | float | None = None
    high: int | float | None = None
    """The last value of the range. If low, high and step are whole numbers, so are the values."""
    step: int | float | None = None
    log: bool = False
    """Draw evenly from the orders of magnitude, such as 0.001 to 0.01 as often as 0.01 to 0.1."""

    @model_validator(mode="before")
    @classmethod
    def _expand_list(cls, value: Any) -> Any:
        return {"choices": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check_values(self) -> SearchParameter:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("choices are complete; leave low, high, step and log out")
            return self
        if self.low is None or self.high is None:
            raise ValueError("expected a list of choices, or a range such as {low: 0.0001, high: 0.1, log: true}")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high})")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step ({self.step}) is not between 0 and high - low")
        if self.log and (self.step is not None or self.low <= 0):
            raise ValueError("log needs a low above 0, and takes no step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the range has whole numbers alone."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step) if value is not None)

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        """The choices, or the first and the last value of the range."""
        return (self.low, self.high) if self.choices is None else self.choices

    @property
    def grid(self) -> tuple[JsonValue, ...] | None:
        """All values; None for a range that has no steps."""
        if self.low is None or self.high is None:
            return self.choices
        if self.step is None and (self.log or not self.is_whole):
            return None
        step = self.step or 1
        count = int((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + number * step for number in range(count))


class SearchConfig(Section):
    """`train search`: which values it tries, and how."""

    parameters: Annotated[dict[str, SearchParameter], Field(min_length=1)]
    """The keys to search, written with dots, and their values: choices, or a range."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: values near the best so far, by Optuna's TPE. random: any. grid: each combination once."""
    trials: PositiveInt | None = None
    """Number of trials; default: 20, or all of the grid. May be raised later, to continue a search."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Stops trials early. median: those below the median of the others after the same epoch. hyperband: most trials
    after few epochs."""
    metric: Annotated[str, Field(pattern="^(val|train)_.+")] | None = None
    """A column of metrics.csv, whose best value over the epochs counts. Default: the metric that selects the best
    epoch."""
    direction: Literal["maximize", "minimize"] | None = None
    """Default: minimize for a metric that ends in loss, maximize for others."""
    seed: NonNegativeInt = 0
    timeout_s: PositiveFloat | None = None
    """No trial starts after this number of seconds; the same command continues later."""

    @model_validator(mode="after")
    def _check_keys(self) -> SearchConfig:
        for key in self.parameters:
            if key.partition(".")[0] in _FIXED:
                raise ValueError(f"parameters: {key} is the same in all trials; leave it out")
        for one, other in combinations(sorted(self.parameters), 2):
            if other.startswith(f"{one}."):
                raise ValueError(f"parameters: {one} contains {other}; search only one of them")
        return self

    @model_validator(mode="after")
    def _check_grid(self) -> SearchConfig:
        if self.sampler == "grid":
            for key, parameter in self.parameters.items():
                if parameter.grid is None:
                    raise ValueError(f"parameters: {key} has no steps, which a grid needs; add step, or list choices")
            if self.trials is not None:
                raise ValueError("trials: a grid has one trial for each combination; leave it out")
        return self

    @property
    def planned_trials(self) -> int:
        """The number of trials."""
        if self.sampler == "grid":
            count = 1
            for parameter in self.parameters.values():
                count *= len(parameter.grid or ())
            return count
        return self.trials or _DEFAULT_TRIALS
