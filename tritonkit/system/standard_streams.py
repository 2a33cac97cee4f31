"""Standard streams that handle other encodings, closed pipes and a full disk; libraries that log only errors."""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from tritonkit.errors import ExternalError
from tritonkit.system.terminal_escape import printable


class _Stream(io.FileIO):
    """The file of a standard stream. After its first error it writes to /dev/null, so that exit cannot fail again."""

    def __init__(self, number: int, name: str | None) -> None:
        """name: the stream's name in errors; None for a stream whose errors are ignored."""
        super().__init__(number, "w", closefd=False)
        self._title = name

    def write(self, data: Any) -> int:
        """Write bytes; a closed pipe is not an error. Raises ExternalError for other errors."""
        try:
            return super().write(data) or 0
        except OSError as error:
            _redirect_to_null(self.fileno())
            if self._title and not isinstance(error, BrokenPipeError):
                raise ExternalError(
                    f"{self._title}: cannot be written ({error.strerror})", code="output.stream"
                ) from error
            return len(memoryview(data).cast("B"))


def warn(text: str) -> None:
    """Print text on stderr; control characters are escaped."""
    print(printable(text, keep="\n\t"), file=sys.stderr, flush=True)


def prepare() -> None:
    """Replace stdout and stderr with streams that accept any text and a closed pipe; open closed streams.

    Streams that a caller has replaced are not changed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                _redirect_to_null(number)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - open until exit
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text_stream(1, "standard output", sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text_stream(2, None, sys.stderr)


def takes_unicode() -> bool:
    """Whether standard output accepts any Unicode character."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name.startswith("utf")


def _text_stream(number: int, name: str | None, before: Any) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    buffered = io.BufferedWriter(_Stream(number, name))
    encoding = getattr(before, "encoding", None) or "utf-8"
    at_once = name is None or buffered.isatty()
    # Click may write to the buffer directly; write_through keeps the order.
    return io.TextIOWrapper(buffered, encoding, "backslashreplace", line_buffering=at_once, write_through=True)


def _redirect_to_null(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


@contextlib.contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Log only errors of these libraries; the empty name is the root logger."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
