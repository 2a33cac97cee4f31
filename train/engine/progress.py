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

from tritonkit.system.console import duration
from tritonkit.system.standard_streams import quiet_loggers


class EpochLogger(Callback):
    """Shows a progress bar over batches if stderr is a terminal, and a line of metrics after each epoch."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        terminal = self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not terminal)
        self._task = self._bar.add_task("")
        self._fit_start = 0.0
        self._first_epoch: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_time = time.monotonic()
        self._fit_start = self._fit_start or self._start_time
        description = f"{self._epoch(trainer)}{self._time_left(trainer, trainer.current_epoch)}"
        self._bar.reset(self._task, total=trainer.num_training_batches, description=description)

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = sorted(trainer.callback_metrics.items())
        metrics = "  ".join(f"{name} {'-' if value.isnan() else f'{value:.4f}'}" for name, value in measured)
        seconds = time.monotonic() - self._start_time
        left = self._time_left(trainer, trainer.current_epoch + 1)
        self._console.print(f"{self._epoch(trainer)}  {metrics}   {seconds:.1f} s{left}", soft_wrap=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._bar.stop()

    def _time_left(self, trainer: Trainer, epochs: int) -> str:
        """The time up to the last epoch, if it takes as long as those of this process; empty if nothing is known."""
        self._first_epoch = epochs if self._first_epoch is None else self._first_epoch
        done, remaining = epochs - self._first_epoch, (trainer.max_epochs or 0) - epochs
        if not done or not remaining:
            return ""
        return f", {duration((time.monotonic() - self._fit_start) / done * remaining)} left"

    @staticmethod
    def _epoch(trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's banners, tips and warnings."""
    with quiet_loggers("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield
