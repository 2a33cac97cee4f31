"""Measure images per second of `train fit` against a bare torch loop with the same network, images and augmentation.

python -m benchmarks.studies.train_speed [examples/digits.yaml] [--rounds 4] [--output FILE.json]

Both train in this process in turns, with AdamW. The time covers the training batches of all epochs but the first, with
decoding and augmentation, without validation and final outputs. Exits with 1 if `train fit` is below 0.9 of the loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.environment import read_environment
from train.config.loading import Config, load_config
from train.data.augment import make_augmentation
from train.engine.fit import fit
from tritonkit.plugins import register

EPOCHS = 4
MIN_RATIO = 0.9

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
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    network = timm.create_model(config.model.name, num_classes=len(pictures.classes))
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(), config.optimizer.lr, weight_decay=config.optimizer.weight_decay, fused=True
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
    return sum(images for images, _ in epochs) / sum(seconds for _, seconds in epochs)


def main() -> int:
    """Run both in turns, then print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=Path("examples/digits.yaml"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config, [f"epochs={EPOCHS}", "callbacks=[epoch_clock]", "precision=32-true"])
    loops: dict[str, Callable[[Config], float]] = {"train fit": train_fit_rate, "bare loop": bare_loop_rate}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(arguments.rounds):
        for name in list(loops) if number % 2 else reversed(loops):
            rates[name].append(round(loops[name](config), 1))
            print(f"{name}: {rates[name][-1]:.0f} images/s", flush=True)
    ratio = statistics.median(rates["train fit"]) / statistics.median(rates["bare loop"])
    environment = read_environment(triton="")
    machine = f"{environment.cpu}, {environment.cores} cores, torch {torch.__version__}"
    print(f"train fit reaches {ratio:.2f} of the bare loop ({arguments.config}; {machine})")
    if arguments.output:
        record = {"config": str(arguments.config), "machine": machine, "images_per_s": rates, "ratio": round(ratio, 3)}
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if ratio >= MIN_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
