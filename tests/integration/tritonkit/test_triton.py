"""The Triton client: addresses, unreachable servers, and the errors of failed requests."""

from __future__ import annotations

import numpy as np
import pytest

from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection
from tritonkit.triton.runner import TritonRunner


@pytest.mark.parametrize("fixture", ["served", "served_http"])
def test_answers_are_the_same_when_pictures_go_through_shared_memory(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(fixture)
    images = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    with (
        TritonRunner(TritonClient(url), "resnet18") as plain,
        TritonRunner(TritonClient(Connection(url=url, shared_memory=True)), "resnet18") as sharing,
    ):
        for size in (8, 3, 5):
            expected = plain.infer(images[:size])["probabilities"]
            assert np.allclose(sharing.infer(images[:size])["probabilities"], expected, atol=1e-5)
