"""The two models of a comparison: served ones, or artifacts that run in this process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.model_loading import open_runner
from tritonkit.errors import InputError, UnknownModelError
from tritonkit.remotes import is_address
from tritonkit.repository.artifact_files import local_artifact
from tritonkit.runtimes import Runner
from tritonkit.runtimes.formats import format_of
from tritonkit.spec import Frozen

if TYPE_CHECKING:
    from tritonkit.triton.connection import Connection

_SERVED = re.compile(r"(?P<model>[\w.-]+?)(?:@(?P<version>\d+))?", re.ASCII)
_CHECKPOINT = ".safetensors"


class ModelReference(Frozen):
    """A model as the command line names it."""

    text: str
    """As typed; the name in reports."""
    model: str = ""
    """The served model; empty for an artifact."""
    version: str = ""
    """The served version; empty for the newest one that is loaded."""

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read `MODEL`, `MODEL@VERSION`, or the path or address of an artifact. Raises InputError for anything else."""
        path = Path(text)
        if is_address(text) or path.suffix == _CHECKPOINT or format_of(path) is not None or path.exists():
            return cls(text=text)
        if served := _SERVED.fullmatch(text):
            return cls(text=text, model=served["model"], version=served["version"] or "")
        raise InputError(
            f"{text}: no such file, and not a served model; expected MODEL, MODEL@VERSION such as cats@3, or the path "
            "of a checkpoint or an exported file",
            code="compare.model",
        )

    @property
    def is_served(self) -> bool:
        """Whether a server runs it."""
        return bool(self.model)

    def open(self, connection: Connection | str) -> Runner:
        """Open the model; a served one stays at its version. Raises InputError, ArtifactError, InferenceError."""
        if not self.is_served:
            return open_runner(local_artifact(self.text), connection, None, "")
        try:
            return open_runner(None, connection, self.model, self.version, pinned=True)
        except UnknownModelError as error:
            if not self.version:
                raise
            raise UnknownModelError(
                f"{error}. To serve several versions, publish with `builder export --versions latest:2`; or give the "
                f"file of the version instead: model_repository/{self.model}/{self.version}/…",
                code=error.code,
            ) from error


def references_of(old: str, new: str, connection_flags: Sequence[str]) -> tuple[ModelReference, ModelReference]:
    """Parse both models. Raises InputError; also for options of a connection if no server is needed."""
    references = ModelReference.parse(old), ModelReference.parse(new)
    if connection_flags and not any(reference.is_served for reference in references):
        raise InputError(
            f"both models answer in this process, without a server; omit {', '.join(connection_flags)}",
            code="option.from_server",
        )
    return references
