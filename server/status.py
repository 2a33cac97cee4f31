"""What a running server tells of its models."""

from __future__ import annotations

from model.runners.triton import Counters, TritonServer
from model.spec import Frozen
from server.process import Server


class ModelRow(Frozen):
    """A model's state and what it has done since it was loaded."""

    model: str
    version: str
    state: str
    images: int
    mean_batch: float
    queue_us: int
    """Mean time a request waited before it ran."""


def model_rows(running: Server) -> list[ModelRow]:
    """Ask a ready server. Raises InferenceError."""
    server = TritonServer(f"{running.options.host}:{running.options.grpc_port}")
    rows = []
    for state in server.models():
        ready = state.state == "READY"
        counted = server.counters(state.name, state.version) if ready else Counters()
        rows.append(
            ModelRow(
                model=state.name,
                version=state.version,
                state=state.state or state.reason or "NOT LOADED",
                images=counted.images,
                mean_batch=round(counted.images / max(1, counted.executions), 2),
                queue_us=round(counted.queue_ns / max(1, counted.requests) / 1000),
            )
        )
    return rows
