from __future__ import annotations

import pytest

from benchmarks.load.options import concurrency_levels, rate_levels
from tests.errors import raises
from tritonkit.errors import InputError


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("4", (4,)),
        ("1:64", (1, 2, 4, 8, 16, 32, 64)),
        ("1:6", (1, 2, 4, 6)),
        ("3:20", (3, 6, 12, 20)),
        ("5:5", (5,)),
        ("8,1,32", (1, 8, 32)),
    ],
)
def test_concurrency_levels(text: str, levels: tuple[int, ...]) -> None:
    assert concurrency_levels(text) == levels


@pytest.mark.parametrize("text", ["", "0", "0:4", "8:4", "-1", "a", "1:2:3", "1,,2", "1:", "2,0", "4096"])
def test_concurrency_is_refused_when_it_is_no_level(text: str) -> None:
    with raises(InputError, "option.concurrency"):
        concurrency_levels(text)


@pytest.mark.parametrize(
    ("text", "levels"), [("50", (50,)), ("10:80", (10, 20, 40, 80)), ("2.5:6", (2.5, 5, 6)), ("30,12.5", (12.5, 30))]
)
def test_rate_levels(text: str, levels: tuple[float, ...]) -> None:
    assert rate_levels(text) == levels


@pytest.mark.parametrize("text", ["", "0", "-5", "nan", "inf", "1:inf", "nan:5", "80:10", "ten", "1e9"])
def test_rate_is_refused_when_it_is_no_level(text: str) -> None:
    with raises(InputError, "option.rate"):
        rate_levels(text)
