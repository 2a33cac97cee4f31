"""What was measured after each epoch: a table in the run's folder that survives a kill."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from model.files import atomic_write


class History(Callback):
    """Rows of figures by name, one an epoch; kept in the trainer's state, so a resumed run goes on with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = sorted(trainer.callback_metrics.items())
        # What cannot be measured is an empty cell.
        figures = {name: round(float(value), 6) for name, value in measured if not value.isnan()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.current_epoch + 1, "lr": rate, **figures})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_write(self._path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
