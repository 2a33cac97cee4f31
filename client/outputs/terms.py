"""What answers were asked for: those of other terms do not belong into the same files.

The terms of a job stand beside its first output, in `<output>.made.json`, from its first row on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from model.errors import InputError
from model.files import atomic_write, sha256_of
from model.runners import Runner
from model.spec import Frozen, Lineage, problems_of


class JobSettings(Frozen):
    """All that rows depend on but the pictures. Batches and addresses are not among it: they change no answer."""

    model: str
    version: str = ""
    """The served one that answers; empty for a file."""
    file: str = ""
    """SHA-256 of what answers in this process; empty for a server."""
    spec: str
    """SHA-256 of the model's spec without its lineage."""
    top: int
    threshold: float | None = None
    tta: str = ""
    """Views of each picture that are averaged; empty for the picture alone."""
    classes: tuple[str, ...] = ()
    """Those that a filter keeps; empty for no such filter."""
    min_probability: float | None = None
    """From which a filter keeps an answer; None for no such filter."""
    drawn: dict[str, str] = {}
    """The folders that rows name, by what is drawn."""
    background: str | None = None
    outputs: tuple[str, ...] = ()
    """The files, the first one first, by name."""

    @property
    def filtered(self) -> bool:
        """Whether rows tell if a filter keeps them."""
        return bool(self.classes) or self.min_probability is not None


def terms_of(
    runner: Runner,
    source: Path | None,
    top: int,
    threshold: float | None,
    tta: str | None = None,
    classes: Sequence[str] = (),
    min_probability: float | None = None,
) -> JobSettings:
    """The terms of what is asked of a runner that nothing is wrapped around yet.

    source: the file it was opened from, None for a server. Raises InferenceError.
    """
    spec = runner.spec.model_copy(update={"lineage": Lineage()}).to_json()
    return JobSettings(
        model=runner.spec.name,
        version=_version(runner) if source is None else "",
        file="" if source is None else _digest(source),
        spec=hashlib.sha256(spec.encode()).hexdigest(),
        top=top,
        threshold=threshold,
        tta=tta or "",
        classes=tuple(sorted(classes)),
        min_probability=min_probability,
    )


def _version(runner: Runner) -> str:
    """The version that answers: the one asked for, or the one that the server takes now."""
    from model.runners.triton import TritonRunner

    if not isinstance(runner, TritonRunner):
        return ""
    return runner.version or runner.server.version(runner.model)


def terms_beside(path: Path) -> Path:
    """The file that holds the terms of an output."""
    return path.with_name(f"{path.name}.made.json")


class _Made(JobSettings):
    """What the file says."""

    placed: tuple[str, ...] = ()
    """SHA-256 of the files that the job has put into their places while its first output is not there yet."""


def write_terms(path: Path, terms: JobSettings, placed: Sequence[str] = ()) -> None:
    """Write the terms of the output `path`.

    placed: SHA-256 of the files that the job has put, or is about to put, into their places before the first.
    """
    made = _Made(**terms.model_dump(), placed=tuple(placed))
    text = made.model_dump_json(indent=2, exclude=set() if placed else {"placed"})
    with atomic_write(terms_beside(path)) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def check_terms(path: Path, terms: JobSettings) -> tuple[str, ...]:
    """Refuse to go on with the output `path` on other terms; what was placed before the first output.

    Raises InputError that names the differences.
    """
    made = terms_beside(path)
    try:
        before = _Made.model_validate_json(made.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {_whose(path)}") from error
    except ValidationError as error:
        raise InputError(f"{made}: cannot be read; start over with --overwrite:\n{problems_of(error)}") from error
    old, new = before.model_dump(), terms.model_dump()
    differences = [f"  {_WORDS.get(key, key)}: {_shown(old[key])} then, {_shown(new[key])} now" for key in new]
    changed = [line for key, line in zip(new, differences, strict=True) if old[key] != new[key]]
    if changed:
        told = "\n".join(changed)
        raise InputError(
            f"{path}: its answers were made in another way:\n{told}\n"
            "Ask for the same again, give another --output, or start over with --overwrite."
        )
    return before.placed


def has_placed(path: Path) -> bool:
    """Whether a job with the first output `path` noted files of its own that have taken their place before it."""
    try:
        return bool(_Made.model_validate_json(terms_beside(path).read_bytes()).placed)
    except (OSError, ValidationError):
        return False


def _whose(path: Path) -> str:
    """Of an output without terms of its own: what is known of where it comes from, and the way on."""
    for made in sorted(path.parent.glob(terms_beside(Path("*")).name)):
        try:
            names = _Made.model_validate_json(made.read_bytes()).outputs
        except (OSError, ValidationError):
            continue  # it says nothing of this output
        if path.name in names:
            same = " ".join(f"--output {path.with_name(name)}" for name in names)
            return f"was written together with other files, as {made.name} says; give {same}, or another file"
    return (
        f"there are answers already, and {terms_beside(path).name}, which says how they were made, is not beside it; "
        "give another --output, or start over with --overwrite"
    )


_WORDS = {"file": "the file that answers", "spec": "the model's spec", "drawn": "folders of pictures"}


def _shown(value: object) -> str:
    text = str(value)
    if len(text) == 64:  # a digest
        return text[:12]
    return text if value not in (None, "", (), {}) else "none"


def _digest(source: Path) -> str:
    """Of OpenVINO's two files both: the weights lie apart."""
    files = [source, *(path for path in [source.with_suffix(".bin")] if source.suffix == ".xml" and path.is_file())]
    digests = [sha256_of(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
