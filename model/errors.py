"""The errors a person can meet, as one tree.

TritonkitError
├── InputError            what was given cannot be used as it is
│   ├── ConfigError       a YAML file or an override
│   ├── DataError         a data folder or CSV
│   ├── SpecError         the JSON of a ModelSpec
│   ├── CheckpointError   a checkpoint, ours or someone else's
│   ├── ArtifactError     an ONNX file, a golden sample, a model repository
│   └── BatchError        an array that does not fit a model's input
├── RefusedError          the work was done, and its answer is no
└── OutsideError          something outside this program failed
    ├── ServerError       Triton could not be started, or stopped
    └── InferenceError    Triton could not be reached, or refused a request

A picture that cannot be read raises `model.preprocess.ImageError`, a ValueError: that file stands alone,
so that a server can carry it. Whoever reads pictures turns it into a row or a DataError.

Errors of other libraries are translated where they enter. What exit code an error becomes is known to
`model.console` alone.
"""

from __future__ import annotations


class TritonkitError(Exception):
    """Base of all errors raised on purpose. The message names the thing, what was expected, and what to do."""


class InputError(TritonkitError):
    """What was given cannot be used as it is."""


class ConfigError(InputError):
    """A configuration has problems; the message lists all of them."""


class DataError(InputError):
    """A data folder or CSV has problems; the message lists all of them."""


class SpecError(InputError):
    """A ModelSpec's JSON is not one that this version understands."""


class CheckpointError(InputError):
    """A checkpoint cannot be read, or does not fit the network it is for."""


class ArtifactError(InputError):
    """An ONNX file, a golden sample or a model repository cannot be used."""


class BatchError(InputError):
    """An array does not fit a model's input."""


class RefusedError(TritonkitError):
    """The work was done and its answer is no: a verdict failed. `document` is what `--json` shows of it."""

    def __init__(self, message: str, document: object = None) -> None:
        super().__init__(message)
        self.document = document


class OutsideError(TritonkitError):
    """Something outside this program failed."""


class ServerError(OutsideError):
    """Triton could not be started or stopped."""


class InferenceError(OutsideError):
    """Triton could not be reached, or refused a request."""


def first_line(error: BaseException) -> str:
    """What another library says went wrong, without the listing it puts below; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
