"""The option `--limit NAME=NUMBER`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.errors import raises
from tests.programs import ROOT
from tritonkit.comparison import Limits
from tritonkit.errors import InputError
from tritonkit.export_options import VerificationOptions
from tritonkit.options import options_from
from tritonkit.repository.verdict import LIMITS
from tritonkit.runtimes.formats import Precision


def limits_from(*limits: str) -> Mapping[Precision, Limits]:
    """Read `--limit` of a command line."""
    return options_from(VerificationOptions, {"limit": list(limits)}).limits


def test_limits_are_the_defaults_without_options() -> None:
    assert limits_from() == LIMITS


def test_a_limit_applies_to_all_precisions_and_that_of_one_precision_takes_precedence() -> None:
    limits_by_precision = limits_from("fp16.relative=0.1", "decisions = 0.98", "relative=0.3")
    assert {name: limits.relative for name, limits in limits_by_precision.items()} == {
        "fp32": 0.3,
        "fp16": 0.1,
        "bf16": 0.3,
        "int8": 0.3,
    }
    assert {limits.decisions for limits in limits_by_precision.values()} == {0.98}
    assert {name: limits.max_abs for name, limits in limits_by_precision.items()} == {
        n: x.max_abs for n, x in LIMITS.items()
    }


def test_every_field_can_be_set() -> None:
    limits_by_precision = limits_from(*[f"{name}=0.5" for name in Limits.model_fields])
    assert limits_by_precision["int8"] == Limits(**dict.fromkeys(Limits.model_fields, 0.5))


def test_all_problems_are_reported_at_once_when_limits_are_wrong() -> None:
    options = ["accuracy=1", "fp8.max_abs=1", "decisions=98", "relative=", "max_abs=nan", "slack"]
    with pytest.raises(InputError) as caught:
        limits_from(*options, "quality=-0.1", "max_abs=inf", "=3")
    assert [(problem.code, problem.message.partition(": ")[0]) for problem in caught.value.problems] == [
        ("option.unknown_limit", "--limit accuracy=1"),
        ("option.limit_precision", "--limit fp8.max_abs=1"),
        ("option.limit_range", "--limit decisions=98"),
        ("option.limit_range", "--limit relative="),
        ("option.limit_range", "--limit max_abs=nan"),
        ("option.limit_range", "--limit slack"),
        ("option.limit_range", "--limit quality=-0.1"),
        ("option.limit_range", "--limit max_abs=inf"),
        ("option.unknown_limit", "--limit =3"),
    ]
    assert "expected one of fp32, fp16, bf16, int8" in str(caught.value)
    with raises(InputError, "option.limit_repeated"):
        limits_from("tie=1", "tie=0")


def test_limits_in_the_docs_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "verdict.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(.+)\|$", page, re.MULTILINE)
    documented = {name: [float(cell) for cell in cells.split("|")[: len(LIMITS)]] for name, cells in rows}
    assert f"| limit | {' | '.join(LIMITS)} |" in page
    assert documented == {name: [getattr(limits, name) for limits in LIMITS.values()] for name in Limits.model_fields}
