"""`batch_size: auto`: the largest power of two whose training step fits into the memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch.utils.data import default_collate

from train.engine.optim import make_optimizer
from train.engine.plan import TrainingPlan
from tritonkit.errors import ConfigError
from tritonkit.system.console import warn

LARGEST = 256
"""Larger batches rarely train faster, and need another learning rate."""
_SMALLEST = 2
_SHARE = 0.5
"""Share of the free memory of a CPU's machine that a step may take: the workers need some too."""
_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def with_batch_size(plan: TrainingPlan) -> TrainingPlan:
    """Return the plan with a number in place of `batch_size: auto`. Raises ConfigError if no batch fits."""
    if plan.config.batch_size != "auto":
        return plan
    limit = min(LARGEST, max(len(plan.splits.train), _SMALLEST))
    if torch.cuda.is_available():
        size = largest_on_gpu(lambda size: _step(plan, size), limit)
    else:
        size = largest_on_cpu(lambda size: _step(plan, size), limit, int(_SHARE * free_memory()))
    warn(f"batch_size: {size} (auto, at most {limit})")
    return replace(plan, config=plan.config.model_copy(update={"batch_size": size}))


def largest_on_gpu(step: Callable[[int], None], limit: int) -> int:
    """Double the batch until the GPU's memory is too small. Raises ConfigError if the smallest does not fit."""
    fitting = 0
    for size in _powers_of_two(limit):
        try:
            step(size)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            break
        finally:
            garbage_collection_cuda()
        fitting = size
    return _checked(fitting)


def largest_on_cpu(step: Callable[[int], None], limit: int, available: int) -> int:
    """Compute the largest batch from the memory of two small ones. Raises ConfigError if the smallest does not fit.

    available: bytes. A CPU has no error to catch: the system would end the process, or swap.
    """
    small, large = _SMALLEST, min(4 * _SMALLEST, limit)
    step(small)  # what is allocated only once
    first, second = _memory_of(step, small), _memory_of(step, large)
    each = max(second - first, 0) / max(large - small, 1)
    fixed = max(first - each * small, 0)
    return _checked(max((size for size in _powers_of_two(limit) if fixed + each * size <= available), default=0))


def free_memory() -> int:
    """Return the free bytes of the machine, or of the container if that has a limit."""
    available = int(psutil.virtual_memory().available)
    try:  # cgroup v2: docs.kernel.org
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such file, or "max"
        return available
    return min(available, limit - used)


def _powers_of_two(limit: int) -> Iterator[int]:
    size = _SMALLEST
    while size <= limit:
        yield size
        size *= 2


def _checked(size: int) -> int:
    if not size:
        raise ConfigError(
            f"batch_size: auto: not even {_SMALLEST} images fit into the memory; use a smaller image.size or model",
            code="training.no_batch_fits",
        )
    return size


def _memory_of(step: Callable[[int], None], size: int) -> int:
    with _peak_memory() as peak:
        step(size)
    return peak[0]


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Watch the memory of this process; the list holds the growth to its peak in bytes."""
    process, done = psutil.Process(), threading.Event()
    start, peak = process.memory_info().rss, [0]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss - start)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _step(plan: TrainingPlan, size: int) -> None:
    """Take one training step on copies of the network and the loss, with random images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, loss = copy.deepcopy(plan.network).to(device), copy.deepcopy(plan.loss).to(device)
    preprocess, spec, train = network.spec.preprocess, plan.splits.task_spec, plan.splits.train
    samples = [train[number % len(train)] for number in range(size)]
    targets = default_collate([plan.task.target(s.truth, s.gallery, preprocess, spec) for s in samples])
    optimizer = make_optimizer(network.train(), plan.config.optimizer)
    dtype = _AUTOCAST.get(plan.precision)
    with torch.random.fork_rng():
        images = torch.randint(256, (size, preprocess.height, preprocess.width, 3), dtype=torch.uint8, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            value = loss(network.logits(images), _on(targets, device))
        value.backward()
        optimizer.step()


def _on(targets: object, device: torch.device) -> object:
    if isinstance(targets, dict):
        return {name: _on(each, device) for name, each in targets.items()}
    return targets.to(device) if isinstance(targets, torch.Tensor) else targets
