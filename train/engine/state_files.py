"""Lightning's state files in a run folder: written atomically, and loaded without running code from the file."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pydantic import ValidationError
from torch import Tensor, nn

from train.compression.channels import resize_network
from train.config.loading import Config
from train.engine.run_folder import RunFolder
from tritonkit.errors import CheckpointError, ConfigError, first_line
from tritonkit.networks.network import Network
from tritonkit.system.files import atomic_write

State = dict[str, Any]
CONFIG_KEY = "tritonkit_config"
"""The key of the run's configuration in a state."""
PRUNED_KEY = "tritonkit_pruned"
"""The key that says whether channels were removed from the network of a state."""
_REQUIRED_KEYS = ("state_dict", "callbacks", "epoch", "optimizer_states", "loops", CONFIG_KEY)
_CHANGEABLE_KEYS = (
    "name", "output", "plugins", "data", "augment", "epochs", "batch_size", "accumulate", "precision", "patience",
    "keep_best", "workers", "devices", "num_nodes", "strategy", "callbacks", "trackers", "export",
)  # fmt: skip
"""Keys of the configuration that may change before a run is resumed."""


def last_state(run: RunFolder) -> State | None:
    """Read the state after the last complete epoch; None if there is none. Raises CheckpointError."""
    if not run.last_state.exists():
        return None
    try:
        return read_state(run.last_state, _REQUIRED_KEYS)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_restart_hint(run)}", code=error.code) from error


def read_state(path: Path, required: Sequence[str] = ("state_dict",)) -> State:
    """Read a state with the required keys, without running code from the file. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected the state of a run", code="checkpoint.not_found")
    try:
        with warnings.catch_warnings(action="ignore"):  # a bad file is reported below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})", code="checkpoint.unreadable") from error
    except Exception as error:  # torch's readers raise many types on a broken file
        raise CheckpointError(
            f"{path}: is truncated, or not the state of a tritonkit run", code="checkpoint.not_a_state"
        ) from error
    missing = [key for key in required if not isinstance(state, dict) or key not in state]
    if missing:
        raise CheckpointError(
            f"{path}: is not the state of a tritonkit run; missing keys: {', '.join(missing)}",
            code="checkpoint.not_a_state",
        )
    return dict(state)


def _restart_hint(run: RunFolder) -> str:
    config = run.config_file
    best = sorted(run.states.glob("best-*.ckpt"), key=lambda path: path.stat().st_mtime)
    command = f"Start again with: train fit {config}"
    if not best or read_state(best[-1]).get(PRUNED_KEY):  # `model.weights` cannot read fewer channels from a state
        return command
    return f"{command} model.pretrained=false model.weights={best[-1]}, which starts from the best epoch"


def network_weights(state: State) -> dict[str, Tensor]:
    """Return the network's weights in a state."""
    weights: dict[str, Tensor] = state["state_dict"]
    return {key.removeprefix("network."): tensor for key, tensor in weights.items() if key.startswith("network.")}


def check_same_config(state: State, config: Config, run: RunFolder) -> None:
    """Raise ConfigError if the network, loss or optimizer differ from those the run was started with."""
    # A run of an earlier version lacks new keys: it ran with their defaults.
    try:
        original = {**Config.model_validate(state[CONFIG_KEY]).model_dump(mode="json"), **state[CONFIG_KEY]}
    except ValidationError as error:
        raise CheckpointError(
            f"{run.last_state}: was written by another version of tritonkit, whose configuration has other keys. "
            f"{_restart_hint(run)}",
            code="checkpoint.other_version",
        ) from error
    current = config.model_dump(mode="json")
    changed = [
        f"{name} is {value!r:.60}, was {old!r:.60}"
        for key in current
        if key not in _CHANGEABLE_KEYS
        for name, old, value in _differences(key, original.get(key), current[key])
    ]
    if changed:
        network = (
            "; the network differs from the trained one" if any(text.startswith("model") for text in changed) else ""
        )
        raise ConfigError(
            f"{run.config_file}: {'; '.join(changed)}{network}. A resumed run must keep "
            "these values: restore them, or start a new run with train fit",
            code="run.config_changed",
        )


def _differences(key: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [each for name in keys for each in _differences(f"{key}.{name}", old.get(name), new.get(name))]
    return [(key, old, new)] if old != new else []


def check_same_network(state: State, network: nn.Module, run: RunFolder) -> None:
    """Raise ConfigError if the state's weights are of another network, such as one with other labels."""
    trained, current = network_weights(state), network.state_dict()
    same = [key for key in trained if key in current and trained[key].shape == current[key].shape]
    if len(same) == len(trained) == len(current):
        return
    raise ConfigError(
        f"{run.last_state}: the network differs from the trained one: {len(same)} of its {len(current)} tensors are "
        f"equal. Restore {run.config_file}, or start a new run with train fit",
        code="run.network_changed",
    )


def restore_channels(network: Network, state: State) -> None:
    """Remove the channels that the network of a state lacks."""
    if state.get(PRUNED_KEY):
        resize_network(network, {key: tensor.shape for key, tensor in network_weights(state).items()})


class FromEpoch(Callback):
    """Ignores the epochs before one: those at whose end pruning is not complete cannot be the best."""

    first_epoch = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch >= self.first_epoch:
            super().on_train_epoch_end(trainer, pl_module)


class PrunedEarlyStopping(FromEpoch, EarlyStopping):
    """Stops a run that is pruned, after epochs without improvement."""


class BestEpochCheckpoint(FromEpoch, ModelCheckpoint):
    """Keeps the states of the best epochs, even if the run folder was moved or fewer are to be kept from now on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = sorted(state_dict["best_k_models"].items(), key=lambda item: -float(item[1]))[: self.save_top_k]
        scores = {self._in_folder(path): score for path, score in best}
        paths = {"best_model_path": self._in_folder(state_dict["best_model_path"])}
        if scores:
            paths["kth_best_model_path"], last = list(scores.items())[-1]
            state_dict = {**state_dict, "kth_value": last}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})

    def _in_folder(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each state atomically, so that a kill during writing keeps the previous state."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a state. Raises OSError with the state's path if the disk is full."""
        with atomic_write(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch's writer raises this for a full disk
                raise OSError(
                    errno.EIO, f"cannot be written, is the disk full? ({first_line(error):.120})", path
                ) from error
