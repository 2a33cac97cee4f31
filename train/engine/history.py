"""The metrics after each epoch, written to a table in the run folder that survives a kill."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tritonkit.system.files import atomic_write


class History(Callback):
    """Writes a row for each epoch: when it ended, in seconds since 1970, and its metrics.

    The rows are part of the trainer's state, so a resumed run keeps them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = sorted(trainer.callback_metrics.items())
        # A metric that cannot be measured is an empty cell.
        metrics = {name: round(float(value), 6) for name, value in measured if not value.isnan()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        now = round(time.time(), 3)
        self.rows.append({"epoch": trainer.current_epoch + 1, "time": now, "lr": rate, **metrics})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_write(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
