"""Triton's statistics of a model, as the time that its requests spent in each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.records.record import ServerTime
from tritonkit.triton.client import Statistics, TritonClient


def read_counters(server: TritonClient, versions: Mapping[str, str]) -> dict[str, Statistics]:
    """Return the counters of models. versions: by model; empty is the sum of all. Raises InferenceError."""
    return {model: Statistics.total(server.statistics(model, version).values()) for model, version in versions.items()}


def server_time(model: str, counted: Mapping[str, Statistics]) -> ServerTime | None:
    """Return the time of a model's requests, with the other models of `counted` as its steps; None if none was counted.

    Triton counts the compute times of an ensemble as sums over its steps; the queue time is summed here. A server may
    run an ensemble as one model; then its steps count nothing.
    """
    if model not in counted or counted[model].requests <= 0:
        return None
    whole = _time_of(counted[model])
    steps = {
        name: _time_of(statistics) for name, statistics in counted.items() if name != model and statistics.requests > 0
    }
    if not steps:
        return whole
    queue_us = sum(step.queue_us or 0 for step in steps.values())
    return whole.model_copy(update={"queue_us": queue_us, "batches": {}, "steps": steps})


def _time_of(counted: Statistics) -> ServerTime:
    return ServerTime(
        queue_us=counted.queue_us,
        input_us=counted.input_us,
        infer_us=counted.infer_us,
        output_us=counted.output_us,
        request_us=counted.request_us,
        mean_batch=counted.mean_batch,
        batches=dict(counted.batches),
    )


def served_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a model's configuration that decides about its speed, in the words of `config.pbtxt`."""
    settings: dict[str, Any] = {"max_batch_size": int(config.get("max_batch_size", 0))}
    if groups := config.get("instance_group"):
        settings["instance_group"] = [
            {"count": int(group.get("count", 1)), "kind": group.get("kind", "KIND_AUTO")} for group in groups
        ]
    if (batching := config.get("dynamic_batching")) is not None:
        settings["dynamic_batching"] = {
            "max_queue_delay_microseconds": int(batching.get("max_queue_delay_microseconds", 0)),
            "preferred_batch_size": [int(size) for size in batching.get("preferred_batch_size", ())],
        }
    parameters = config.get("parameters", {})
    settings["parameters"] = {
        name: value.get("string_value", "") for name, value in sorted(parameters.items()) if "thread" in name
    }
    if config.get("response_cache", {}).get("enable"):
        settings["response_cache"] = True
    if graphs := config.get("optimization", {}).get("cuda"):
        settings["cuda"] = graphs
    return settings
