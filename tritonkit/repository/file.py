"""The base of the JSON files in a version folder: each has one type, which reads and writes it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from tritonkit.errors import ArtifactError, TritonkitError
from tritonkit.spec import Frozen, validation_problems
from tritonkit.system.files import atomic_write


class RepositoryFile(Frozen):
    """A JSON file of a version folder. Fields that older versions did not write have defaults."""

    FILE: ClassVar[str]
    """The name of the file."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the file of a folder; None where it is missing. Raises ArtifactError where it cannot be read."""
        try:
            return cls.read_file(folder / cls.FILE)
        except FileNotFoundError:
            return None

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read the file of a folder; None also where it cannot be read, which `builder check` reports."""
        try:
            return cls.read(folder)
        except TritonkitError:
            return None

    @classmethod
    def read_file(cls, path: Path) -> Self:
        """Read a file of any name. Raises FileNotFoundError, and ArtifactError for any other fault."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cls.unreadable(path, error.strerror or str(error)) from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Parse the content of a file. path: names it in errors. Raises ArtifactError."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            if all(problem["type"] == "extra_forbidden" for problem in problems):
                unknown = ", ".join(".".join(map(str, problem["loc"])) for problem in problems)
                raise ArtifactError(
                    f"{path}: was written by a newer tritonkit, this one does not know {unknown}; upgrade tritonkit, "
                    "or export the model again",
                    code="repository.newer_file",
                ) from error
            raise cls.unreadable(path, validation_problems(error).strip()) from error

    @classmethod
    def unreadable(cls, path: Path, reason: str) -> ArtifactError:
        """The error for a file that cannot be read."""
        raise NotImplementedError

    def write(self, folder: Path) -> None:
        """Write the file into a folder. A present file is replaced, because it may be a hard link."""
        with atomic_write(folder / self.FILE) as temporary:
            temporary.write_text(self.model_dump_json(indent=2), encoding="utf-8")
