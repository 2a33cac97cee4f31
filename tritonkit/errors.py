"""The errors that a user can meet, as one tree.

TritonkitError
├── InputError            an argument or a file cannot be used
│   ├── ConfigError       a YAML file or an override
│   ├── DataError         a data folder or CSV
│   ├── SpecError         the JSON of a ModelSpec
│   ├── CheckpointError   a checkpoint, ours or a third party's
│   ├── ArtifactError     an ONNX file, a golden sample, a model repository
│   ├── BatchError        an array that does not fit a model's input
│   ├── UnknownModelError the server has no model, or no version, of that name
│   └── TokenError        the server requires a token that is missing or wrong
├── CheckFailedError      the work was done, and the answer is no
│   └── AnswerError       a model returned values that are impossible for its task
└── ExternalError         something outside this program failed
    ├── ServerError       Triton could not be started, or stopped
    └── InferenceError    Triton could not be reached, or refused a request
        ├── UnreachableError  no server answers at the address
        ├── CertificateError  the TLS handshake failed
        ├── NotReadyError     the server or the model is loading, or shutting down
        ├── BusyError         the server's queue is full
        └── DeadlineError     no answer came in time

Each error has a stable code beside its sentence, such as `data.mask_size`: the part before the dot names the area,
the part after it the fault. Programs compare codes; sentences may change. `docs/errors.md` lists all codes.

An image that cannot be read raises `tritonkit.images.picture_file.ImageError`, a ValueError with its own code: that
file has no import from here, so that it can be copied to a server. Callers turn it into an error row or a DataError.

Errors of other libraries are translated where they enter. Only `tritonkit.system.console` knows exit codes.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

_EXTERNAL_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.ESTALE,
}


@dataclass(frozen=True)
class Problem:
    """One of several faults that are reported together."""

    code: str
    """Stable and dotted, such as `data.mask_size`."""
    message: str
    """Names the thing, what was expected, what came, and what to do next."""

    def __str__(self) -> str:
        return self.message


class TritonkitError(Exception):
    """Base of all errors raised on purpose. The message names the thing, what was expected, and what to do.

    code: stable and dotted, such as `data.mask_size`; by default the code of the class.
    problems: the faults, where the message reports several.
    """

    code: str = "internal.error"

    def __init__(self, message: str, *, code: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        if code:
            self.code = code
        self.problems = tuple(problems)


class InputError(TritonkitError):
    """An argument, an option or a file cannot be used."""

    code = "input.invalid"


class ConfigError(InputError):
    """A configuration has problems; the message lists all of them."""

    code = "config.invalid"


class DataError(InputError):
    """A data folder or CSV has problems; the message lists all of them."""

    code = "data.invalid"


class SpecError(InputError):
    """The JSON of a ModelSpec is invalid, or newer than this version."""

    code = "spec.invalid"


class CheckpointError(InputError):
    """A checkpoint cannot be read, or does not fit its network."""

    code = "checkpoint.invalid"


class ArtifactError(InputError):
    """An ONNX file, a golden sample or a model repository cannot be used."""

    code = "artifact.invalid"


class BatchError(InputError):
    """An array does not fit a model's input."""

    code = "batch.invalid"


class UnknownModelError(InputError):
    """The server has no model, or no model version, with the requested name."""

    code = "server.unknown_model"


class TokenError(InputError):
    """The server requires a token that is missing or wrong."""

    code = "server.token"


class CheckFailedError(TritonkitError):
    """The work was done and the answer is no, such as a failed verdict. `--json` prints `document`."""

    code = "check.failed"

    def __init__(
        self, message: str, document: object = None, *, code: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        super().__init__(message, code=code, problems=problems)
        self.document = document


class AnswerError(CheckFailedError):
    """A model returned values that are impossible for its task, such as NaN."""

    code = "answer.impossible"


class ExternalError(TritonkitError):
    """Something outside this program failed."""

    code = "external.failed"


class ServerError(ExternalError):
    """Triton could not be started or stopped."""

    code = "server.failed"


class InferenceError(ExternalError):
    """Triton could not be reached, or refused a request."""

    code = "inference.failed"


class UnreachableError(InferenceError):
    """No server answers at the address, or the connection broke. A retry may succeed."""

    code = "server.unreachable"


class CertificateError(InferenceError):
    """The TLS handshake failed: a certificate is missing, expired, for another host, or not trusted."""

    code = "server.certificate"


class NotReadyError(InferenceError):
    """The server or the model is loading, or shutting down. A retry may succeed."""

    code = "server.not_ready"


class BusyError(InferenceError):
    """The server's queue is full. A retry with fewer requests in flight may succeed."""

    code = "server.busy"


class DeadlineError(InferenceError):
    """No answer came in time. A retry may succeed."""

    code = "server.deadline"


def is_external_failure(error: OSError) -> bool:
    """Whether the machine or the network failed, not the input: a full disk, too many open files, a lost host."""
    return error.errno in _EXTERNAL_ERRNOS or isinstance(error, ConnectionError | TimeoutError)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
