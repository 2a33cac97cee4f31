"""Trains a checkpoint further, in a new run with the configuration of its own run and a few changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from train.config.loading import Config, resolve_config
from train.config.pruning_functions import CHANNELS
from train.data import SPLIT_FILES, SPLITS, SUMMARY_FILE
from train.data.remote_images import fetch_missing_images
from train.data.splits import Splits
from train.engine.fit import FitResult, fit
from tritonkit.checkpoint import read_spec
from tritonkit.errors import DataError, InputError
from tritonkit.evaluation.labelled_images import known_labels
from tritonkit.remotes.addresses import public_name
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.spec import ModelSpec
from tritonkit.system.console import warn
from tritonkit.yaml_document import Document

_KEYS_OF_SPLITS = ("labels", "mask_values", "ignore_index", "per_class", "sampling")
"""Keys of `data` that also hold for the tables in a run's splits folder."""
_KEYS_OF_HOST = ("trackers", "devices", "num_nodes")
"""Keys that belong to the host and the run they were set for, so that their defaults hold again."""


def fine_tuning_config(
    checkpoint: Path,
    address: str,
    data: str | Path | None,
    changes: Mapping[str, Any],
    overrides: Sequence[str] = (),
    lr_factor: float = 1.0,
) -> Config:
    """Return the configuration of a run that starts from a checkpoint of `train fit`, in one stage, without an export.

    address: what the new run calls the checkpoint, a path or a remote address. data: replaces `data.path`; None for
    the splits next to the checkpoint, so that test images stay test images.
    changes: top-level keys and their values. lr_factor: on the learning rate of the checkpoint's run. Its trackers,
    devices and num_nodes are not taken over. Raises CheckpointError, InputError, and ConfigError for wrong overrides.
    """
    try:
        config = Config.model_validate(read_spec(checkpoint).lineage.config)
    except ValidationError as error:
        raise InputError(
            f"{checkpoint}: contains no training configuration, so it cannot be trained further; expected a checkpoint "
            "that `train fit` wrote",
            code="checkpoint.no_config",
        ) from error
    values = config.model_dump(mode="json")
    splits = checkpoint.parent / SPLITS
    if data is not None:
        values["data"]["path"] = str(data)
    elif (splits / SUMMARY_FILE).is_file():
        kept = {key: values["data"][key] for key in _KEYS_OF_SPLITS}
        fetch_missing_images(splits, config)
        values["data"] = {**kept, "path": str(splits), "test_ratio": 0}
    else:
        raise DataError(
            f"{checkpoint}: no splits/{SUMMARY_FILE} next to it; set --data to the images that it was trained on",
            code="data.no_splits",
        )
    values["model"] |= {"pretrained": False, "weights": address}
    values["optimizer"]["lr"] *= lr_factor
    values = {key: value for key, value in values.items() if key not in _KEYS_OF_HOST}
    # Removed channels stay removed; zeros are the smallest weights, so they become the same ones again.
    zeros = [each | {"when": "start"} for each in values["pruning"] if each["function"] != CHANNELS]
    values |= {"pruning": zeros, "frozen_epochs": 0, "frozen_lr": None, "patience": None, "export": None, **changes}
    return resolve_config(Document(values, {}), overrides, address)


def local_run_checkpoint(checkpoint: Path | str) -> Path:
    """Return the local path of a checkpoint; with a remote one, fetch the splits of its run too."""
    return local_artifact(checkpoint, *SPLIT_FILES, f"{SPLITS}/{SUMMARY_FILE}")


def fine_tune(checkpoint: Path, config: Config) -> FitResult:
    """Run a configuration of `fine_tuning_config`. Raises what `fit` raises, and DataError if the labels differ."""
    spec = read_spec(checkpoint)
    return fit(config, lambda plan: check_same_data(plan.splits, config.data.path, spec))


def check_same_data(splits: Splits, data: str | Path, spec: ModelSpec) -> None:
    """Compare the data of a new run with the data of the checkpoint that it starts from. spec: of the checkpoint.

    Raises DataError for other labels, because the layer of the answers would start from random weights. Warns of other
    images, because some that the checkpoint was trained on may now be test images.
    """
    data = public_name(str(data))
    planned, expected = known_labels(splits.task_spec), known_labels(spec)
    if planned != expected:
        raise DataError(
            f"{data}: has the labels {', '.join(planned):.200}; expected those of the checkpoint: "
            f"{', '.join(expected):.200}",
            code="data.other_labels",
        )
    if spec.lineage.data_fingerprint not in (None, splits.fingerprint):
        warn(
            f"warning: {data}: is not the data that the checkpoint was trained on; test images may be among those that "
            "it has seen, and then its metrics are too good"
        )
