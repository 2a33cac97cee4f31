"""The configuration of `train compress` and `train quantize`: that of the checkpoint's run, with a few changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixture_types import MakeNetwork
from tests.train_configs import tiny_config
from train.config.loading import Config
from train.data.splits import Splits
from train.fine_tuning import check_same_data, fine_tuning_config
from tritonkit.networks.network import save_network
from tritonkit.spec import Lineage, ModelSpec


def further(make_network: MakeNetwork, folder: Path, *overrides: str, **changes: Any) -> Config:
    """The configuration of a run that starts from one with these changes, on its splits."""
    network = make_network("test_resnet")
    lineage = Lineage(config=tiny_config(**changes).model_dump(mode="json"))
    save_network(folder / "best.safetensors", network, network.spec.model_copy(update={"lineage": lineage}))
    (folder / "splits").mkdir()
    (folder / "splits" / "data.json").write_text("{}")
    checkpoint = folder / "best.safetensors"
    return fine_tuning_config(checkpoint, str(checkpoint), None, {}, overrides)


def test_masks_keep_their_meaning_when_the_splits_of_a_run_are_read(make_network: MakeNetwork, tmp_path: Path) -> None:
    keys = {"labels": ["sky", "tree"], "ignore_index": 7, "mask_values": {"sky": [0], "tree": [1]}}
    data = further(make_network, tmp_path, task="segmentation", data={"path": "x", "masks": "y", **keys}).data
    assert (data.path, data.masks) == (tmp_path / "splits", None)
    assert {name: getattr(data, name) for name in keys} == {
        "labels": ("sky", "tree"), "ignore_index": 7, "mask_values": {"sky": (0,), "tree": (1,)},
    }  # fmt: skip


def test_data_that_differs_from_the_data_of_the_checkpoint_gets_a_warning(
    spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec.model_copy(update={"lineage": Lineage(data_fingerprint="5f")})
    for fingerprint in ("5f", "6a"):
        check_same_data(Splits((), (), (), (), spec, fingerprint), "photos", spec)
        assert ("photos: is not the data" in capsys.readouterr().err) == (fingerprint == "6a")


@pytest.mark.parametrize("overrides", [(), ("devices=3", "trackers=[tensorboard]")])
def test_host_and_trackers_of_the_old_run_are_not_taken_over_unless_set(
    make_network: MakeNetwork, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    old = {"devices": 2, "num_nodes": 2, "trackers": ["csv", {"name": "mlflow", "run_name": "roses"}]}
    config = further(make_network, tmp_path, *overrides, **old)
    expected = tiny_config(devices=3, trackers=["tensorboard"]) if overrides else tiny_config()
    assert (config.devices, config.num_nodes, config.trackers) == (
        expected.devices, expected.num_nodes, expected.trackers,
    )  # fmt: skip
