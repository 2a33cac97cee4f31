"""Lightning's states in a run's folder: written whole, and read with the care that a checkpoint gets."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from model.errors import CheckpointError, ConfigError, first_line
from model.files import atomic_write
from train.config import Config
from train.run_folder import RunFolder

State = dict[str, Any]
CONFIG_KEY = "tritonkit_config"
"""Under this key a state holds the run's configuration."""
_NEEDED = ("state_dict", "callbacks", "epoch", "optimizer_states", "loops", CONFIG_KEY)
_MAY_CHANGE = (
    "name", "output", "plugins", "data", "augment", "epochs", "batch_size", "accumulate", "precision", "patience",
    "keep_best", "workers", "callbacks", "export",
)  # fmt: skip
"""Keys of the configuration that a resumed run takes as they are now."""


def last_state(run: RunFolder) -> State | None:
    """The state after the last whole epoch; None where no epoch is finished. Raises CheckpointError."""
    if not run.last_state.exists():
        return None
    try:
        return read_state(run.last_state, _NEEDED)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_other_ways(run)}") from error


def read_state(path: Path, needed: Sequence[str] = ("state_dict",)) -> State:
    """Read a state that has the needed keys, without running code of the file. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: is no file, expected the state of a run")
    try:
        with warnings.catch_warnings(action="ignore"):  # what the file is no state of is told below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # torch's readers fail on a broken file in their own ways
        raise CheckpointError(f"{path}: is cut short, or no state of a run of tritonkit") from error
    lacking = [key for key in needed if not isinstance(state, dict) or key not in state]
    if lacking:
        raise CheckpointError(f"{path}: is no state of a run of tritonkit, it lacks {', '.join(lacking)}")
    return dict(state)


def _other_ways(run: RunFolder) -> str:
    config = run.path / "config.yaml"
    best = sorted(run.states.glob("best-*.ckpt"), key=lambda path: path.stat().st_mtime)
    anew = f"Begin anew with: train fit {config}"
    return f"{anew} model.pretrained=false model.weights={best[-1]}, which starts from the best epoch" if best else anew


def network_weights(state: State) -> dict[str, Tensor]:
    """The weights of the network in a state."""
    weights: dict[str, Tensor] = state["state_dict"]
    return {key.removeprefix("network."): tensor for key, tensor in weights.items() if key.startswith("network.")}


def check_same_config(state: State | None, config: Config, run: RunFolder) -> None:
    """Refuse to go on with another network, loss or optimizer than the run was begun with. Raises ConfigError."""
    if state is None:
        return
    begun, now = state[CONFIG_KEY], config.model_dump(mode="json")
    changed = [
        f"{name} is {value!r:.60}, was {old!r:.60}"
        for key in now
        if key not in _MAY_CHANGE
        for name, old, value in _differences(key, begun.get(key), now[key])
    ]
    if changed:
        network = (
            "; the network differs from the one trained" if any(text.startswith("model") for text in changed) else ""
        )
        raise ConfigError(
            f"{run.path / 'config.yaml'}: {'; '.join(changed)}{network}. A run goes on as it was begun: "
            "put that back, or begin a new run with train fit"
        )


def _differences(key: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [each for name in keys for each in _differences(f"{key}.{name}", old.get(name), new.get(name))]
    return [(key, old, new)] if old != new else []


def check_same_network(state: State | None, network: nn.Module, run: RunFolder) -> None:
    """Refuse weights of another network, such as one of other labels. Raises ConfigError."""
    if state is None:
        return
    trained, here = network_weights(state), network.state_dict()
    same = [key for key in trained if key in here and trained[key].shape == here[key].shape]
    if len(same) == len(trained) == len(here):
        return
    raise ConfigError(
        f"{run.last_state}: the network differs from the one trained: {len(same)} of its {len(here)} tensors are the "
        f"same. Put {run.path / 'config.yaml'} back as it was, or begin a new run with train fit"
    )


class BestEpochs(ModelCheckpoint):
    """Keeps the states of the best epochs, also when the run's folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scores = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        paths = {key: self._here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name)


class WholeFiles(TorchCheckpointIO):
    """Writes each state whole, so that a kill while writing keeps the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises OSError that names the state where the disk is full."""
        with atomic_write(Path(path)) as beside:
            try:
                torch.save(checkpoint, beside)
            except RuntimeError as error:  # torch's own writer has no other error for it
                raise OSError(
                    errno.EIO, f"cannot be written, is the disk full? ({first_line(error):.120})", path
                ) from error
