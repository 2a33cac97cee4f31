"""How every command talks: one error line and an exit code, tables on a terminal, or one JSON document.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or input, 3 the outside failed,
130 stopped by the keyboard.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ParamSpec

import typer

from model.errors import OutsideError, RefusedError, TritonkitError

Arguments = ParamSpec("Arguments")

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
            return "stopped by the keyboard"
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
    """Print one JSON document on stdout; pydantic values are dumped."""
    print(json.dumps(document, default=_plain, ensure_ascii=False, indent=2))


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


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
