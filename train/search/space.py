"""The values that a search tries: Optuna's distributions of them, and the configuration of a trial."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import JsonValue, ValidationError

from train.config.loading import NO_FILE, Config, resolve_config
from train.config.search import SearchConfig, SearchParameter
from tritonkit.errors import ConfigError, Problem
from tritonkit.yaml_document import Document, set_value

TrialValues = Mapping[str, CategoricalChoiceType]
"""The values of a trial as Optuna stores them, by dotted key."""


@dataclass(frozen=True)
class TrialSpace:
    """A configuration, and the keys and values to search."""

    config: Config
    """The values of the file."""
    search: SearchConfig
    values: Mapping[str, Any]
    """The document of the file without `search`."""

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of each key."""
        return {key: _distribution(parameter) for key, parameter in self.search.parameters.items()}

    def grid(self) -> list[TrialValues]:
        """Return all combinations; the last key changes fastest."""
        points = [[_label(value) for value in parameter.grid or ()] for parameter in self.search.parameters.values()]
        return [dict(zip(self.search.parameters, point, strict=True)) for point in product(*points)]

    def document(self, values: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Return the document with other values of some keys."""
        return _with_values(self.values, values)[0]

    def trial_config(self, chosen: TrialValues) -> Config:
        """Return the configuration of a trial. Raises ConfigError if its values do not fit together."""
        values = {key: self.value(key, label) for key, label in chosen.items()}
        return resolve_config(Document(self.document(values), {}), (), "the values of the trial")

    def value(self, key: str, label: CategoricalChoiceType) -> JsonValue:
        """Return the value that a label stands for."""
        choices = self.search.parameters[key].choices or ()
        return next((value for value in choices if _label(value) == label), label)


def load_search(path: Path, overrides: Sequence[str] = ()) -> TrialSpace:
    """Read a configuration with a section `search`. Raises ConfigError that lists all problems.

    Each choice and each end of a range is tried as the value of its key.
    """
    document = Document.read(path, NO_FILE)
    config = resolve_config(document, overrides, str(path))
    if config.search is None:
        raise ConfigError(
            f"{path}: has no section `search` with the values to try; add one such as\n"
            "search:\n  parameters:\n    optimizer.lr: {low: 0.0001, high: 0.1, log: true}",
            code="search.missing_section",
        )
    values = {key: value for key, value in document.values.items() if key != "search"}
    problems = [
        problem
        for key, parameter in config.search.parameters.items()
        for value in parameter.ends
        for problem in _problems(document, values, key, value)
    ]
    if problems:
        raise ConfigError(
            "\n  ".join([f"{path}: values to search that do not fit their keys:", *map(str, problems)]),
            code="search.values",
            problems=problems,
        )
    return TrialSpace(config, config.search, values)


def _problems(document: Document, values: Mapping[str, Any], key: str, value: JsonValue) -> list[Problem]:
    """Return what is wrong with a value of a key."""
    origin = document.origin(("search", "parameters", key))
    changed, problem = _with_values(values, {key: value})
    if problem:
        return [Problem("search.not_a_section", f"{origin}search.parameters.{key}: {problem}")]
    try:
        Config.model_validate(changed)
    except ValidationError as error:
        plain = Document(changed, {})
        described = [plain.describe(details, Config) for details in error.errors(include_url=False)]
        return [Problem(each.code, f"{origin}search.parameters, {json.dumps(value)}: {each}") for each in described]
    return []


def _with_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a copy with dotted keys changed, and the problem, empty if there is none."""
    changed = copy.deepcopy(dict(values))
    problems = [set_value(changed, tuple(key.split(".")), value) for key, value in changes.items()]
    return changed, "; ".join(filter(None, problems))


def _distribution(parameter: SearchParameter) -> BaseDistribution:
    if parameter.low is None or parameter.high is None:
        return CategoricalDistribution(tuple(map(_label, parameter.choices or ())))
    if parameter.is_whole:
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, int(parameter.step or 1))
    return FloatDistribution(parameter.low, parameter.high, parameter.log, parameter.step)


def _label(value: JsonValue) -> CategoricalChoiceType:
    """Return what Optuna stores of a choice: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def values_text(values: TrialValues) -> str:
    """Write the values of a trial: `batch_size=16 optimizer.lr=0.00123`."""
    return " ".join(f"{key}={value_text(value)}" for key, value in values.items())


def value_text(value: object) -> str:
    """Write a value of a trial as YAML does, a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
