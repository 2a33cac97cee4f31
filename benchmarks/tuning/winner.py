"""Write the winner of a search into the repository with its evidence, and undo it."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tritonkit.errors import InputError
from tritonkit.repository.config_rules import check_config
from tritonkit.repository.staging import locked
from tritonkit.repository.tuning.record import TuningRecord
from tritonkit.repository.tuning.settings import ServingSettings
from tritonkit.system.files import atomic_write
from tritonkit.triton.companions import companion_owner, decoder_of, ensemble_of
from tritonkit.triton.model_config import (
    CONFIG_FILE,
    config_from_text,
    config_to_text,
    fit_sizes,
    read_config,
    read_config_file,
)

OTHER_CONFIGS = "configs/*.pbtxt"
"""Configurations that Triton takes by their name instead (`--model-config-name`)."""


def new_configs(repository: Path, model: str, settings: ServingSettings) -> dict[str, str]:
    """Return the text of each configuration file that the settings change, by its path in the repository.

    The model's own comes first. The decoder and the ensemble of encoded images may not accept larger batches than it.
    Raises InputError for a configuration that Triton would refuse, ArtifactError for one that cannot be read.
    """
    configs = {f"{model}/{CONFIG_FILE}": settings.applied_to(read_config(repository / model))}
    for companion in (decoder_of(model), ensemble_of(model)):
        for path in sorted(
            [*(repository / companion).glob(CONFIG_FILE), *(repository / companion).glob(OTHER_CONFIGS)]
        ):
            config = read_config_file(path)
            if companion_owner(config) == model and config.max_batch_size != settings.max_batch:
                config.max_batch_size = settings.max_batch
                fit_sizes(config, settings.max_batch)
                configs[str(path.relative_to(repository))] = config
    for config in configs.values():
        check_config(config)
    return {path: config_to_text(config) for path, config in configs.items()}


def changed_models(paths: Iterable[str]) -> list[str]:
    """Return the models of configuration files, in their order, each once."""
    return list(dict.fromkeys(path.partition("/")[0] for path in paths))


def write_winner(repository: Path, model: str, configs: Mapping[str, str], record: TuningRecord) -> TuningRecord:
    """Write configurations and `tuning.json`; return the record with the replaced texts.

    record: the evidence, without texts and hashes. Raises ArtifactError if a builder is publishing, OSError.
    """
    with locked(repository):
        earlier = TuningRecord.find(repository / model)
        record = record.model_copy(
            update={
                "previous": {path: _text(repository / path) for path in configs},
                "config_sha256": {path: _sha256(text) for path, text in configs.items()},
                "earlier": earlier if earlier is not None and not _changed(repository, earlier) else None,
            }
        )
        record.write(repository / model)
        _write_configs(repository, configs)
    return record


def undo(repository: Path, model: str) -> TuningRecord:
    """Write the previous configurations and `tuning.json` back; return the record that was undone.

    Raises InputError if there is nothing to undo, or if a configuration was changed since; ArtifactError if a builder
    is publishing.
    """
    with locked(repository):
        record = TuningRecord.read(repository / model)
        if record is None:
            raise InputError(
                f"{repository / model}: has no {TuningRecord.FILE}, so `bench tune` did not change its config.pbtxt",
                code="benchmark.nothing_to_undo",
            )
        changed = _changed(repository, record)
        if changed:
            names = ", ".join(map(str, changed))
            raise InputError(
                f"{names}: changed since `bench tune` wrote it, so undo would lose the change; the text before is in "
                f"{repository / model / TuningRecord.FILE}, under `previous`",
                code="benchmark.config_changed",
            )
        _write_configs(repository, record.previous)
        if record.earlier is not None:
            record.earlier.write(repository / model)
        else:
            (repository / model / TuningRecord.FILE).unlink()
    return record


def _changed(repository: Path, record: TuningRecord) -> list[Path]:
    """Return the configurations that are neither what a search wrote nor what it replaced."""
    return [
        repository / path
        for path, digest in record.config_sha256.items()
        if _sha256(_text(repository / path)) not in (digest, _sha256(record.previous[path]))
    ]


def difference(repository: Path, configs: Mapping[str, str]) -> str:
    """Return the changes of configurations as a unified diff."""
    return "".join(text_difference(_text(repository / path), text, path) for path, text in configs.items())


def text_difference(before: str, after: str, path: str) -> str:
    """Return the change of one file as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), path, path)
    return "".join(lines)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write_configs(repository: Path, configs: Mapping[str, str]) -> None:
    """Write configurations in an order in which the ensemble never accepts larger batches than the model."""
    model, text = next(iter(configs.items()))
    present = config_from_text(_text(repository / model), model)
    is_larger = config_from_text(text, model).max_batch_size > present.max_batch_size
    for path in list(configs)[:: 1 if is_larger else -1]:
        with atomic_write(repository / path) as temporary:
            temporary.write_text(configs[path], encoding="utf-8")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
