"""Measure images per second of `train fit` against a bare torch loop with the same network, images and augmentation.

Both train in this process in turns, with AdamW. The time covers the training batches of all epochs but the first, with
decoding and augmentation, without validation and final outputs. Exits with 1 if `train fit` is below 0.95 of the loop.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.studies.study import Result, command, in_turns, medians
from train.config.loading import Config, load_config
from train.data.augment import make_augmentation
from train.engine.fit import fit
from tritonkit.plugins import register

EPOCHS = 4
MIN_RATIO = 0.95
FIT, LOOP = "train fit", "bare loop"

spans: list[tuple[int, float]] = []
"""Images and seconds of each measured epoch of `train fit`."""


@register("callback", "epoch_clock")
class EpochClock(Callback):
    """Times the training batches of each epoch but the first."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.images, self.started = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.images += len(batch[0])
        if index + 1 == trainer.num_training_batches and trainer.current_epoch:
            spans.append((self.images, time.perf_counter() - self.started))


def train_fit_rate(config: Config) -> float:
    """Return the images per second of one run of `train fit`."""
    spans.clear()
    with tempfile.TemporaryDirectory() as folder:
        fit(config.model_copy(update={"output": Path(folder)}))
    return _rate(spans)


def bare_loop_rate(config: Config) -> float:
    """Return the images per second of a minimal training loop in plain torch."""
    preprocess = config.image.preprocess
    augment = make_augmentation(config.augment, preprocess.fill)
    steps = [v2.PILToTensor(), v2.Resize((preprocess.height, preprocess.width)), *([augment] if augment else [])]
    pictures = ImageFolder(str(config.data.path), v2.Compose(steps))
    batches = DataLoader(
        pictures,
        config.images_per_batch,
        shuffle=True,
        drop_last=True,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    network = timm.create_model(config.model.name, num_classes=len(pictures.classes))
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(), config.optimizer.learning_rate, weight_decay=config.optimizer.weight_decay, fused=True
    )
    loss_function, epochs, threads = nn.CrossEntropyLoss(label_smoothing=0.05), [], torch.get_num_threads()
    torch.set_num_threads(max(1, threads - config.workers))
    for epoch in range(EPOCHS):
        images, started = 0, time.perf_counter()
        for batch, targets in batches:
            optimizer.zero_grad()
            loss_function(network((batch.float() / 255 - 0.5) / 0.5), targets).backward()
            optimizer.step()
            images += len(batch)
        if epoch:
            epochs.append((images, time.perf_counter() - started))
    torch.set_num_threads(threads)
    return _rate(epochs)


def _rate(epochs: list[tuple[int, float]]) -> float:
    return round(sum(images for images, _ in epochs) / sum(seconds for _, seconds in epochs), 1)


def measure(config: Annotated[Path, typer.Argument()] = Path("examples/digits.yaml"), rounds: int = 4) -> Result:
    """Train with both, and compare the medians."""
    settings = load_config(config, [f"epochs={EPOCHS}", "callbacks=[epoch_clock]", "precision=32-true"])
    rates = in_turns({FIT: partial(train_fit_rate, settings), LOOP: partial(bare_loop_rate, settings)}, rounds)
    median = medians(rates)
    ratio = round(median[FIT] / median[LOOP], 3)
    return Result(
        {"config": str(config), "images_per_s": rates, "ratio": ratio},
        {f"train fit: {ratio:.2f} of the bare loop, at least {MIN_RATIO}": ratio >= MIN_RATIO},
        packages=("torch",),
    )


if __name__ == "__main__":
    command(measure)()
