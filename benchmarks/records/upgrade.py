"""Brings records of older schema versions to the current one."""

from __future__ import annotations

from typing import Any


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """Return a record of any version as one of version 3; what an old record does not have stays unknown.

    2 added `incomplete` and `load.generated`. 3 added open loops, scenarios, samples, histograms and the breakdown of
    time. Parts that have an unexpected form are kept, so that the validation reports them.
    """
    if document.get("schema_version") not in (1, 2):
        return document
    load, subject, levels = (document.get(key) for key in ("load", "subject", "levels"))
    new = {**document, "schema_version": 3, "run_id": ""}
    if isinstance(load, dict) and isinstance(subject, dict):
        kept = {key: value for key, value in load.items() if key != "kind"}
        new["load"] = {**kept, "scenario": load.get("kind", "closed"), "transport": subject.get("protocol")}
    if isinstance(levels, list):
        new["levels"] = [_upgraded_level(level) if isinstance(level, dict) else level for level in levels]
    return new


def _upgraded_level(level: dict[str, Any]) -> dict[str, Any]:
    new = {key: value for key, value in level.items() if key not in ("mean_batch", "queue_us", "client_cores")}
    if "client_cores" in level:
        new["client"] = {"cores": level["client_cores"]}
    if level.get("queue_us") is not None:
        new["server"] = {"queue_us": level["queue_us"], "mean_batch": level.get("mean_batch")}
    return new
