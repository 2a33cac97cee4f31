"""Serving settings of a model in Triton's terms, and how to read them from the command line.

None keeps the setting of the published model. A new model gets dynamic batching and Triton's defaults: one instance per
GPU (two on a CPU for ONNX Runtime), and the newest version. Warm-up is off by default, as in Triton: it makes each
start longer by a run of the largest batch for each instance of each version.

`--help` imports this module, so it imports no protobuf.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from pydantic import NonNegativeInt, PositiveInt

from tritonkit.errors import InputError, Problem
from tritonkit.repository.config_rules import ACCELERATORS
from tritonkit.spec import Frozen

Kind = Literal["auto", "cpu", "gpu"]
TimeoutAction = Literal["reject", "delay"]
KINDS: tuple[Kind, ...] = ("auto", "cpu", "gpu")
ACTIONS: tuple[TimeoutAction, ...] = ("reject", "delay")
INT32, UINT32, INT64, UINT64 = 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1
"""The largest numbers of the field types of `ModelConfig`."""
Value = TypeVar("Value")
Result = TypeVar("Result")


class Instances(Frozen):
    """An instance group. On GPUs `count` is per GPU; None for `gpus` is all GPUs."""

    count: PositiveInt | None = None
    kind: Kind | None = None
    gpus: tuple[NonNegativeInt, ...] | None = None


class Batching(Frozen):
    """Dynamic batching and its queue policy. A timeout or size of 0 means no limit."""

    enabled: bool | None = None
    max_queue_delay_us: NonNegativeInt | None = None
    preferred_sizes: tuple[PositiveInt, ...] | None = None
    """Triton advises against them, except for plans with several profiles."""
    timeout_us: NonNegativeInt | None = None
    timeout_action: TimeoutAction | None = None
    allow_timeout_override: bool | None = None
    max_queue_size: NonNegativeInt | None = None

    @property
    def has_settings(self) -> bool:
        """Whether a setting other than `enabled` is set."""
        return any(value is not None for name, value in self if name != "enabled")


class CudaGraphs(Frozen):
    """The batch sizes of a plan to capture as CUDA graphs. Default: powers of two up to the largest batch."""

    enabled: bool = True
    batch_sizes: tuple[PositiveInt, ...] = ()

    def sizes(self, max_batch: int) -> tuple[int, ...]:
        """The batch sizes to capture, ascending."""
        powers = {1 << power for power in range(max_batch.bit_length())} | {max_batch}
        return tuple(sorted(self.batch_sizes or powers))


class VersionPolicy(Frozen):
    """The versions that Triton loads: `versions`, else the newest `latest`, else all."""

    latest: PositiveInt | None = None
    versions: tuple[PositiveInt, ...] = ()


class Accelerator(Frozen):
    """An execution provider of ONNX Runtime, with the parameters that Triton's backend passes to it."""

    name: str
    parameters: dict[str, str] = {}


class Serving(Frozen):
    """The settings of `config.pbtxt` that do not follow from the artifact."""

    instances: Instances | None = None
    batching: Batching = Batching()
    cuda_graphs: CudaGraphs | None = None
    warmup: bool | None = None
    version_policy: VersionPolicy | None = None
    response_cache: bool | None = None
    """Only a server started with `--cache-config` caches responses."""
    accelerators: tuple[Accelerator, ...] | None = None
    """An empty tuple removes the accelerators of the current configuration."""


UNCHANGED_SERVING = Serving()
"""Keeps all current settings."""


def serving_from(
    *,
    instances: int | None = None,
    kind: str | None = None,
    gpus: str | None = None,
    dynamic_batching: bool | None = None,
    queue_delay_us: int | None = None,
    preferred_batch: str | None = None,
    queue_timeout_ms: float | None = None,
    queue_timeout_action: str | None = None,
    queue_timeout_override: bool | None = None,
    queue_size: int | None = None,
    cuda_graphs: str | None = None,
    warmup: bool | None = None,
    versions: str | None = None,
    response_cache: bool | None = None,
    accelerator: Sequence[str] = (),
) -> Serving:
    """Read the serving options of the command line.

    gpus, preferred_batch: numbers with commas. cuda_graphs: `on`, `off`, or batch sizes with commas. versions: `all`,
    `latest:N`, or version numbers with commas. accelerator: `NAME` or `NAME:key=value,key=value`, or only `none`.
    Raises InputError that lists all problems.
    """
    reader = _OptionReader()
    group = Instances(
        count=reader.number("--instances", instances, 1, INT32),
        kind=reader.choice("--kind", kind, KINDS),
        gpus=reader.read("--gpus", gpus, lambda text: _numbers(text, 0, INT32)),
    )
    batching = Batching(
        enabled=dynamic_batching,
        max_queue_delay_us=reader.number("--queue-delay-us", queue_delay_us, 0, UINT64),
        preferred_sizes=reader.read("--preferred-batch", preferred_batch, lambda text: _numbers(text, 1, INT32)),
        timeout_us=reader.read("--queue-timeout-ms", queue_timeout_ms, _microseconds),
        timeout_action=reader.choice("--queue-timeout-action", queue_timeout_action, ACTIONS),
        allow_timeout_override=queue_timeout_override,
        max_queue_size=reader.number("--queue-size", queue_size, 0, UINT32),
    )
    serving = Serving(
        instances=None if group == Instances() else group,
        batching=batching,
        cuda_graphs=reader.read("--cuda-graphs", cuda_graphs, _cuda_graphs),
        warmup=warmup,
        version_policy=reader.read("--versions", versions, _version_policy),
        response_cache=response_cache,
        accelerators=reader.read("--accelerator", accelerator or None, _accelerators),
    )
    if problems := [*reader.problems, *serving_contradictions(serving)]:
        raise InputError("\n".join(map(str, problems)), code="option.invalid", problems=problems)
    return serving


def serving_contradictions(serving: Serving) -> list[Problem]:
    """The settings that exclude each other."""
    problems = []
    group, batching = serving.instances, serving.batching
    if group is not None and group.kind == "cpu" and group.gpus:
        gpus = ",".join(map(str, group.gpus))
        problems.append(
            Problem("option.gpus_on_cpu", f"--gpus {gpus}: instances of --kind cpu use no GPU; use --kind gpu")
        )
    if batching.enabled is False and batching.has_settings:
        problems.append(
            Problem("option.batching_off", "the queue options need dynamic batching; leave out --no-dynamic-batching")
        )
    if group is not None and group.kind == "cpu":
        problems += [
            Problem("option.accelerator_on_cpu", f"--accelerator {accelerator.name}: runs on a GPU, but --kind is cpu")
            for accelerator in serving.accelerators or ()
            if ACCELERATORS.get(accelerator.name) == "gpu"
        ]
    return problems


class _OptionReader:
    """Reads options and collects their problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def read(self, option: str, word: Value | None, read: Callable[[Value], Result]) -> Result | None:
        if word is None:
            return None
        try:
            return read(word)
        except InputError as error:
            text = ",".join(word) if isinstance(word, list | tuple) else word
            self.problems.append(Problem(error.code, f"{option} {text}: {error}"))
            return None

    def number(self, option: str, number: int | None, minimum: int, maximum: int) -> int | None:
        return self.read(option, number, lambda value: _within(value, minimum, maximum))

    def choice(self, option: str, word: str | None, choices: tuple[Result, ...]) -> Result | None:
        return self.read(option, word, lambda text: _choice(text, choices))


def _within(number: int, minimum: int, maximum: int) -> int:
    if number < minimum:
        raise InputError(f"expected {minimum} or more", code="option.too_small")
    if number > maximum:
        raise InputError(
            f"expected {maximum} or less, the largest number that this field of Triton's configuration can store",
            code="option.too_large",
        )
    return number


def _choice(word: str, choices: tuple[Result, ...]) -> Result:
    for choice in choices:
        if word.lower() == choice:
            return choice
    raise InputError(f"expected {', '.join(map(str, choices))}", code="option.unknown_choice")


def _numbers(text: str, minimum: int, maximum: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]+", word) and int(word) >= minimum for word in words):
        raise InputError(f"expected whole numbers from {minimum}, with commas between them", code="option.numbers")
    if len({int(word) for word in words}) < len(words):
        raise InputError("contains a number twice", code="option.repeated_number")
    return tuple(_within(int(word), minimum, maximum) for word in words)


def _number(text: str, minimum: int, maximum: int) -> int:
    number, *further = _numbers(text, minimum, maximum)
    if further:
        raise InputError("expected one number", code="option.numbers")
    return number


def _microseconds(milliseconds: float) -> int:
    if not 0 <= milliseconds < 1e12:
        raise InputError("expected milliseconds, 0 for no timeout", code="option.milliseconds")
    if milliseconds and round(milliseconds * 1000) == 0:
        raise InputError(
            "is less than a microsecond, the unit of Triton; use 0 for no timeout", code="option.below_microsecond"
        )
    return round(milliseconds * 1000)


def _cuda_graphs(text: str) -> CudaGraphs:
    if text in ("on", "off"):
        return CudaGraphs(enabled=text == "on")
    try:
        return CudaGraphs(batch_sizes=_numbers(text, 1, INT32))
    except InputError as error:
        raise InputError(f"expected on, off, or batch sizes such as 1,8,32 ({error})", code=error.code) from error


def _version_policy(text: str) -> VersionPolicy:
    if text == "all":
        return VersionPolicy()
    name, _, number = text.partition(":")
    try:
        if name == "latest":
            return VersionPolicy(latest=_number(number, 1, UINT32))
        return VersionPolicy(versions=_numbers(text, 1, INT64))
    except InputError as error:
        raise InputError(
            f"expected all, latest:N, or version numbers such as 3,5 ({error})", code=error.code
        ) from error


def _accelerators(texts: Sequence[str]) -> tuple[Accelerator, ...]:
    if list(texts) == ["none"]:
        return ()
    return tuple(map(_accelerator, texts))


def _accelerator(text: str) -> Accelerator:
    name, separator, rest = text.partition(":")
    if name not in ACCELERATORS:
        raise InputError(f"expected {', '.join(ACCELERATORS)}, or only none", code="option.unknown_accelerator")
    pairs = [pair.partition("=") for pair in rest.split(",")] if separator else []
    if not all(key and equals and value for key, equals, value in pairs):
        raise InputError("expected parameters as NAME:key=value,key=value", code="option.accelerator_parameters")
    return Accelerator(name=name, parameters={key: value for key, _, value in pairs})
