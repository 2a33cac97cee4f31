"""The settings of a job: answers with other settings must not be added to the same files.

The settings are in `<output>.made.json` next to the first output, from the first row on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tritonkit.errors import InputError
from tritonkit.runtimes import Runner
from tritonkit.runtimes.formats import model_files
from tritonkit.spec import Frozen, Lineage, validation_problems
from tritonkit.system.files import atomic_write, file_sha256


class JobSettings(Frozen):
    """Everything that rows depend on except the images. Batch size and address are left out: they change no answer."""

    model: str
    version: str = ""
    """The version of the served model; empty for an artifact."""
    file: str = ""
    """SHA-256 of the artifact; empty for a server."""
    spec: str
    """SHA-256 of the model's spec without its lineage."""
    top: int
    threshold: float | None = None
    tta: str = ""
    """The averaged views of each image; empty without test-time augmentation."""
    classes: tuple[str, ...] = ()
    """The labels of the filter; empty without one."""
    min_probability: float | None = None
    """The minimum probability of the filter; None without one."""
    drawn: dict[str, str] = {}
    """The folders of drawn files, by row key."""
    background: str | None = None
    outputs: tuple[str, ...] = ()
    """The names of the output files, the first output first."""

    @property
    def has_filter(self) -> bool:
        """Whether rows say if a filter keeps them."""
        return bool(self.classes) or self.min_probability is not None


def job_settings_of(
    runner: Runner,
    source: Path | None,
    top: int,
    threshold: float | None,
    tta: str | None = None,
    classes: Sequence[str] = (),
    min_probability: float | None = None,
) -> JobSettings:
    """Return the settings of a job with a runner that is not wrapped yet.

    source: the artifact of the runner, None for a server. Raises InferenceError.
    """
    spec = runner.spec.model_copy(update={"lineage": Lineage()}).to_json()
    return JobSettings(
        model=runner.spec.name,
        version=_version(runner) if source is None else "",
        file="" if source is None else _source_digest(source),
        spec=hashlib.sha256(spec.encode()).hexdigest(),
        top=top,
        threshold=threshold,
        tta=tta or "",
        classes=tuple(sorted(classes)),
        min_probability=min_probability,
    )


def _version(runner: Runner) -> str:
    """Return the version that answers: the selected one, or the server's current choice."""
    from tritonkit.triton.runner import TritonRunner

    if not isinstance(runner, TritonRunner):
        return ""
    return runner.version or runner.server.version(runner.model)


def settings_path(path: Path) -> Path:
    """Return the path of an output's settings file."""
    return path.with_name(f"{path.name}.made.json")


class _SettingsFile(JobSettings):
    """The content of the settings file."""

    placed: tuple[str, ...] = ()
    """SHA-256 of the files that the job put into place before its first output."""


def write_settings(path: Path, settings: JobSettings, placed: Sequence[str] = ()) -> None:
    """Write the settings file of the output `path`.

    placed: SHA-256 of the files that the job put, or will put, into place before the first output.
    """
    settings_file = _SettingsFile(**settings.model_dump(), placed=tuple(placed))
    text = settings_file.model_dump_json(indent=2, exclude=set() if placed else {"placed"})
    with atomic_write(settings_path(path)) as partial_path:
        partial_path.write_text(text + "\n", encoding="utf-8")


def check_settings(path: Path, settings: JobSettings) -> tuple[str, ...]:
    """Refuse to continue the output `path` with other settings; return the digests of files placed before it.

    Raises InputError that names the differences.
    """
    settings_file = settings_path(path)
    try:
        previous = _SettingsFile.model_validate_json(settings_file.read_bytes())
    except OSError as error:
        raise _missing_settings_error(path) from error
    except ValidationError as error:
        raise InputError(
            f"{settings_file}: cannot be read; start over with --overwrite:\n{validation_problems(error)}",
            code="output.settings_unreadable",
        ) from error
    old, new = previous.model_dump(), settings.model_dump()
    differences = [f"  {_TITLES.get(key, key)}: was {_display(old[key])}, is {_display(new[key])} now" for key in new]
    changed = [line for key, line in zip(new, differences, strict=True) if old[key] != new[key]]
    if changed:
        differences_text = "\n".join(changed)
        raise InputError(
            f"{path}: its answers were made with other settings:\n{differences_text}\n"
            "Use the same settings, set another --output, or start over with --overwrite",
            code="output.other_settings",
        )
    return previous.placed


def has_placed_files(path: Path) -> bool:
    """Whether a job with the first output `path` recorded files that it put into place before that output."""
    try:
        return bool(_SettingsFile.model_validate_json(settings_path(path).read_bytes()).placed)
    except (OSError, ValidationError):
        return False


def _missing_settings_error(path: Path) -> InputError:
    """Explain where an output without a settings file may come from, and how to continue."""
    for settings_file in sorted(path.parent.glob(settings_path(Path("*")).name)):
        try:
            names = _SettingsFile.model_validate_json(settings_file.read_bytes()).outputs
        except (OSError, ValidationError):
            continue  # it does not name this output
        if path.name in names:
            options = " ".join(f"--output {path.with_name(name)}" for name in names)
            return InputError(
                f"{path}: was written together with other files, according to {settings_file.name}; "
                f"set {options}, or another file",
                code="output.written_with_others",
            )
    return InputError(
        f"{path}: contains answers, but {settings_path(path).name} with their settings is missing; "
        "set another --output, or start over with --overwrite",
        code="output.no_settings",
    )


_TITLES = {"file": "artifact", "spec": "spec of the model", "drawn": "folders of drawings"}


def _display(value: object) -> str:
    text = str(value)
    if len(text) == 64:  # a digest
        return text[:12]
    return text if value not in (None, "", (), {}) else "none"


def _source_digest(source: Path) -> str:
    """Return the digest of an artifact; OpenVINO's weights are in a second file."""
    digests = [file_sha256(path) for path in model_files(source)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
