"""`mlflow.json`: what MLflow has of a run. Loads without mlflow and torch."""

from __future__ import annotations

import uuid
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from tritonkit.system.files import atomic_write


class MlflowRecord(BaseModel):
    """What was sent to MLflow, so that the next call sends only what is missing."""

    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Finds the run in MLflow, in its tag `tritonkit.run`, where the server's answer to its creation was lost."""
    run_id: str | None = None
    epoch: int = 0
    """The last epoch whose metrics were sent."""
    parameters: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, float] = {}
    """Metrics of the finished run."""
    artifacts: dict[str, str] = {}
    """The SHA-256 of each artifact."""
    status: str | None = None

    @classmethod
    def read(cls, path: Path) -> MlflowRecord:
        """Read a record; a new one if there is none, or if it is broken."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return cls()

    def write(self, path: Path) -> None:
        """Write the record."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1), encoding="utf-8")
