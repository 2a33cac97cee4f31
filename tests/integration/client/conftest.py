"""A checkpoint of each task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixture_types import NetworkOf
from tests.task_specs import COLOURS, TAGS, VECTOR
from tritonkit.networks.network import save_network
from tritonkit.spec import TaskSpec

MODELS = {
    "colours": COLOURS,
    "tags": TAGS,
    "vector": VECTOR,
    "all": TaskSpec(task="heads", heads={"colour": COLOURS, "tags": TAGS, "vector": VECTOR}),
    "mask": TaskSpec(task="segmentation", labels=("ground", "thing")),
    "soft": TaskSpec(task="segmentation", labels=("ground", "thing"), probability=True),
    "three": TaskSpec(task="segmentation", labels=("ground", "thing", "other")),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, network_of: NetworkOf) -> dict[str, Path]:
    """A checkpoint with random weights of each of these models."""
    folder = tmp_path_factory.mktemp("models")
    for name, task_spec in MODELS.items():
        network = network_of(task_spec)
        save_network(folder / f"{name}.safetensors", network, network.spec.renamed(name))
    return {name: folder / f"{name}.safetensors" for name in MODELS}
