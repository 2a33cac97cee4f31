"""How every command talks: one error line and an exit code, tables on a terminal, or one JSON document.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or input, 3 the outside failed,
130 stopped by the keyboard, or by SIGTERM.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from model.errors import OutsideError, RefusedError, TritonkitError

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")

DEFAULT_URL = "127.0.0.1:8001"
TRACEBACK_VARIABLE = "TRITONKIT_TRACEBACK"
"""Set in the environment, it lets unexpected errors through with their traceback."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]


def application(help_text: str) -> typer.Typer:
    """A command-line application in the form all five share."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )


def reports_errors(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn our errors into one message on stderr (with `--json`, also a document on stdout) and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            # One of ours that has a cause may come from a user's own module.
            if os.environ.get(TRACEBACK_VARIABLE) and (error.__cause__ or not isinstance(error, TritonkitError)):
                raise
            message = _message(error)
            if kwargs.get("as_json"):
                found = {"document": error.document} if isinstance(error, RefusedError) and error.document else {}
                print_json({"error": {"type": type(error).__name__, "message": message}, **found})
            fail(message, code=exit_code(error))

    return wrapped


def exit_code(error: BaseException) -> int:
    """The exit code an error becomes."""
    if isinstance(error, RefusedError):
        return 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, OutsideError):
        return 3
    return 2 if isinstance(error, TritonkitError | OSError | ModuleNotFoundError) else 3


def _message(error: BaseException) -> str:
    match error:
        case TritonkitError():
            return str(error)
        case KeyboardInterrupt():
            return str(error) or "stopped by the keyboard"
        case ModuleNotFoundError():
            return f"{error.name} is missing; install it with: pip install 'tritonkit[all]'"
        case OSError():
            return f"{error.filename or 'input or output'}: {error.strerror or error}"
    return (
        f"unexpected {type(error).__name__}: {error}. Please report it with what the command prints "
        f"when {TRACEBACK_VARIABLE}=1 is set"
    )


def fail(message: str, code: int) -> None:
    """Print `error: message` on stderr and leave with `code`."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; pydantic values are dumped, and NaN, which JSON has not, is null."""
    plain = json.loads(json.dumps(document, default=_plain), parse_constant=lambda constant: None)
    print(json.dumps(plain, ensure_ascii=False, indent=2))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, as wide as the terminal, or as its text where there is none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(drawn)


@contextmanager
def progress(first: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done; the function given tells of the next step."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(first) as status:

        def report(step: str) -> None:
            status.update(step)
            if not console.is_terminal:
                print(step, file=sys.stderr)

        report(first)
        yield report


def counted(items: Iterable[Item], doing: str, total: int | None, every_s: float = 30.0) -> Iterator[Item]:
    """The items as they come, counted on stderr: by a bar on a terminal, elsewhere by a line now and then.

    total: how many there will be, None where that is not known. every_s: seconds between lines.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, doing, total=total, console=console, transient=True)
        return
    told = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if time.monotonic() - told >= every_s:
            told = time.monotonic()
            print(f"{doing}: {number}{'' if total is None else f' of {total}'}", file=sys.stderr, flush=True)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While the block or the decorated function runs, SIGTERM ends it as Ctrl-C does.

    Docker, Kubernetes and Slurm stop a job by it. Where somebody else heeds or ignores SIGTERM, that stays so.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
