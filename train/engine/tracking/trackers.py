"""Starts, feeds and closes the configured trackers of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from train.config.loading import Config
from train.engine.plan import TrainingPlan
from train.engine.run_folder import RunFolder
from train.engine.tracking.confusion import EpochConfusion
from train.engine.tracking.event_files import EventFileLogger
from train.engine.tracking.mlflow_run import flat
from train.engine.tracking.sender import Sender
from train.tracking import check_trackers, mlflow_environment
from tritonkit.system.console import warn


class Trackers:
    """TensorBoard and MLflow of one run, where they are configured."""

    def __init__(self, config: Config, sender: Sender | None) -> None:
        self._config, self._sender = config, sender
        self._tensorboard: EventFileLogger | None = None
        self._sent: tuple[RunFolder, int] | None = None

    @classmethod
    def of_worker(cls, plan: TrainingPlan, run: RunFolder) -> Trackers:
        """Return the trackers of one of several processes. All need Lightning's loggers, of which the first writes."""
        trackers = cls(plan.config, None)
        trackers.start(run)
        return trackers

    def start(self, run: RunFolder) -> None:
        """Create the run's loggers."""
        self._sent = (run, 0)
        if self._sender is not None:
            self._sender.start(run.path)
        if (tracker := self._config.tensorboard) is not None:
            folder = run.path if tracker.folder is None else tracker.folder / self._config.name
            version = "tensorboard" if tracker.folder is None else run.path.name
            self._tensorboard = EventFileLogger(folder, name="", version=version)

    @property
    def loggers(self) -> list[Any] | bool:
        """Lightning's loggers, for its Trainer and for callbacks of users."""
        return False if self._tensorboard is None else [self._tensorboard]

    def callbacks(self, plan: TrainingPlan, run: RunFolder) -> list[Callback]:
        """Return the callbacks of the trackers; those that send come after those that write."""
        callbacks: list[Callback] = [EpochConfusion(plan, run)]
        if self._tensorboard is not None:
            callbacks.append(TensorBoardImages(self._tensorboard, plan, run))
        return [*callbacks, *([] if self._sender is None else [SendEachEpoch(self._sender)])]

    def poll(self) -> None:
        """Send what is new if other processes train, and have completed an epoch."""
        if self._sender is None or self._sent is None or not self._sent[0].metrics.is_file():
            return
        run, sent_ns = self._sent
        changed_ns = run.metrics.stat().st_mtime_ns
        if changed_ns != sent_ns:
            self._sent = (run, changed_ns)
            self._sender.send()

    def finish(self, run: RunFolder, metrics: Mapping[str, float | None], monitor: str) -> None:
        """Log the best epoch's answers and metric."""
        if self._tensorboard is not None:
            self._tensorboard.add_image("predictions", run.predictions, 0)
            best = {f"best_{name}": value for name, value in metrics.items() if value is not None}
            if (monitored := metrics.get(f"val_{monitor}")) is not None:
                best["hp_metric"] = monitored
            self._tensorboard.log_metrics(best, 0)
            self._tensorboard.finalize("success")


@contextmanager
def open_trackers(config: Config) -> Iterator[Trackers]:
    """Connect to MLflow before anything is written; at the end send the rest to it.

    Raises ConfigError if a tracker cannot work here, if MLflow refuses the credentials, or if the bucket of its files
    is missing.
    """
    check_trackers(config)
    if config.mlflow is None:
        yield Trackers(config, None)
        return
    sender = Sender(mlflow_environment())
    try:
        sender.check(config.mlflow.experiment or config.name)
        yield Trackers(config, sender)
    except BaseException:
        sender.abandon()
        raise
    if sender.finish() and sender.url is not None:
        warn(f"mlflow: {sender.url}")


class SendEachEpoch(Callback):
    """Asks the sender to send what is new after each epoch."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._sender.send()


class TensorBoardImages(Callback):
    """Logs parameters, the learning rate and images to TensorBoard; Lightning itself logs the metrics."""

    def __init__(self, logger: EventFileLogger, plan: TrainingPlan, run: RunFolder) -> None:
        self._logger, self._plan, self._run = logger, plan, run

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logger.log_hyperparams(flat(self._plan.config.model_dump(mode="json")))
        self._logger.add_image("batches", self._run.batches, 0)
        self._logger.add_image("learning_rate", self._run.learning_rate, 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, step = trainer.current_epoch + 1, trainer.global_step - 1  # as Lightning counts its metrics
        self._logger.log_metrics({"lr": trainer.optimizers[0].param_groups[0]["lr"]}, step)
        for path in sorted(self._run.epoch_confusion(epoch, "", "").parent.glob(f"{epoch:03}*.png")):
            head = path.name.removesuffix(".png").partition(".")[2]
            self._logger.add_image(f"confusion/{head}" if head else "confusion", path, step)
