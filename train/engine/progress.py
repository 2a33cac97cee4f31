"""Shows the progress of a run on stderr: a progress bar, and one line for each epoch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tritonkit.system.standard_streams import quiet_loggers


class EpochLogger(Callback):
    """Shows a progress bar over batches if stderr is a terminal, and a line of metrics after each epoch."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        terminal = self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not terminal)
        self._task = self._bar.add_task("")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_time = time.monotonic()
        self._bar.reset(self._task, total=trainer.num_training_batches, description=self._epoch(trainer))

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = sorted(trainer.callback_metrics.items())
        metrics = "  ".join(f"{name} {'-' if value.isnan() else f'{value:.4f}'}" for name, value in measured)
        seconds = time.monotonic() - self._start_time
        self._console.print(f"{self._epoch(trainer)}  {metrics}   {seconds:.1f} s", soft_wrap=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._bar.stop()

    @staticmethod
    def _epoch(trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's banners, tips and warnings."""
    with quiet_loggers("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield
