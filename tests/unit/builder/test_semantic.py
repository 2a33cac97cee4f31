"""Semantic versions: which texts are versions, how they order, and what a request chooses."""

from __future__ import annotations

import random

import pytest

from builder.semantic import SemanticVersion, choose_version
from tests.errors import raises
from tritonkit.errors import InputError

# The example of semver.org, section 11, and a few around it.
ORDERED = (
    *("0.0.9", "0.1.0", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta"),
    *("1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0"),
)


def test_versions_order_as_semver_says() -> None:
    shuffled = random.Random(0).sample(ORDERED, len(ORDERED))
    assert [version.text for version in sorted(map(SemanticVersion, shuffled))] == [*ORDERED]


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "v1.2.0", "01.2.0", "1.2.0-01", "1.2.0-", "1.2.0+build", "1.2.0\n", "1.2.٣", "../1.2.0"]
)
def test_texts_that_are_no_versions_are_refused(text: str) -> None:
    with raises(InputError, "store.version"):
        SemanticVersion(text)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("latest", "2.0.0"),
        ("1.2.0", "1.2.0"),
        ("1.3.0", None),
        ("^1", "1.10.0"),
        ("^1.2", "1.10.0"),
        ("^1.11", None),
        ("^0.1", "0.1.0"),
        ("^0.0.9", "0.0.9"),
        ("^0.0.8", None),
        ("^0", "0.1.0"),
        ("1.0.0-rc.1", "1.0.0-rc.1"),
    ],
)
def test_request_chooses_a_version(wanted: str, chosen: str | None) -> None:
    assert choose_version(ORDERED, wanted) == chosen


def test_pre_release_is_chosen_only_when_no_release_fits() -> None:
    assert choose_version(["1.0.0", "1.1.0-rc.1"], "latest") == "1.0.0"
    assert choose_version(["1.1.0-rc.1", "1.1.0-rc.2"], "^1") == "1.1.0-rc.2"


@pytest.mark.parametrize("wanted", ["^", "^x", "^1.2.3.4", "newest", "~1.2"])
def test_requests_that_mean_nothing_are_refused(wanted: str) -> None:
    with raises(InputError, "store.version"):
        choose_version(ORDERED, wanted)
