"""The errors a person can meet, as one tree.

TritonkitError
├── InputError            what was given cannot be used as it is
│   ├── ConfigError       a YAML file or an override
│   ├── DataError         a data folder or CSV
│   ├── SpecError         the JSON of a ModelSpec
│   ├── CheckpointError   a checkpoint, ours or someone else's
│   ├── ArtifactError     an ONNX file, a golden sample, a model repository
│   ├── BatchError        an array that does not fit a model's input
│   ├── UnknownModelError a server has no model, or no version, of that name
│   └── TokenError        a server asks for a token that was not given, or for another
├── RefusedError          the work was done, and its answer is no
│   └── AnswerError       a model gave values that no answer of its task can have
└── OutsideError          something outside this program failed
    ├── ServerError       Triton could not be started, or stopped
    └── InferenceError    Triton could not be reached, or refused a request
        ├── UnreachableError  nobody answers at the address
        ├── CertificateError  TLS could not be agreed on
        ├── NotReadyError     the server or the model is loading, or ending
        ├── BusyError         the server has more to do than it takes
        └── DeadlineError     no answer came in time

A picture that cannot be read raises `model.preprocess.ImageError`, a ValueError: that file stands alone,
so that a server can carry it. Whoever reads pictures turns it into a row or a DataError.

Errors of other libraries are translated where they enter. What exit code an error becomes is known to
`model.console` alone.
"""

from __future__ import annotations

import errno

_OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ESTALE}


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


class UnknownModelError(InputError):
    """A server has no model, or no version of it, of the name that was asked for."""


class TokenError(InputError):
    """A server asks for a token that was not given, or for another one."""


class RefusedError(TritonkitError):
    """The work was done and its answer is no: a verdict failed. `document` is what `--json` shows of it."""

    def __init__(self, message: str, document: object = None) -> None:
        super().__init__(message)
        self.document = document


class AnswerError(RefusedError):
    """A model gave values that no answer of its task can have, such as NaN."""


class OutsideError(TritonkitError):
    """Something outside this program failed."""


class ServerError(OutsideError):
    """Triton could not be started or stopped."""


class InferenceError(OutsideError):
    """Triton could not be reached, or refused a request."""


class UnreachableError(InferenceError):
    """Nobody answers at the address, or the connection broke. Worth asking again."""


class CertificateError(InferenceError):
    """TLS could not be agreed on: a certificate is missing, expired, of another host, or not trusted."""


class NotReadyError(InferenceError):
    """The server or the model is loading, or ending. Worth asking again."""


class BusyError(InferenceError):
    """The server has more to do than it takes: its queue is full. Worth asking again, and less at once."""


class DeadlineError(InferenceError):
    """No answer came in time. Worth asking again."""


def is_outside(error: OSError) -> bool:
    """Whether the machine or the network failed, and not what was given: a full disk, no more files, a lost host."""
    return error.errno in _OUTSIDE or isinstance(error, ConnectionError | TimeoutError)


def first_line(error: BaseException) -> str:
    """What another library says went wrong, without the listing it puts below; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
