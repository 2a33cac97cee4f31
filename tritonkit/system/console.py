"""The console output of all commands: one error line and an exit code, tables, progress, or one JSON document.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or input, 3 an external failure, 130 stopped by Ctrl-C or
by SIGTERM. A file that does not exist or has the wrong permissions is 2. A full disk, a disk error or a system limit
is 3. A reader that closes stdout early (`| head`) changes nothing.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from tritonkit.errors import CheckFailedError, ExternalError, TritonkitError, is_external_failure
from tritonkit.system import standard_streams
from tritonkit.system.standard_streams import warn as warn
from tritonkit.system.terminal_escape import printable, printable_json

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")

DEFAULT_URL = "127.0.0.1:8001"
TRACEBACK_VARIABLE = "TRITONKIT_TRACEBACK"
"""Environment variable that shows the traceback of unexpected errors."""

PATH_COLUMNS = frozenset({"picture", "path", "image", "file", "folder", "repository", "artifact", "log", "where"})
"""Table columns whose cells lose their beginning where space is short, because the ends of paths differ."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]


class _Application(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command. Writing the help text or the rest of stdout's buffer can also fail on a full disk."""
        standard_streams.prepare()
        try:
            try:
                return super().__call__(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except ExternalError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(exit_code(error)) from error


def application(help_text: str) -> typer.Typer:
    """Create a command-line application with the settings that all five share."""
    return _Application(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )


def reports_errors(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn errors into one message on stderr (with `--json`, also a document on stdout) and an exit code.

    SIGTERM ends a command as Ctrl-C does, with exit code 130.
    """

    @functools.wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            with sigterm_as_interrupt():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            # A TritonkitError with a cause may come from a user's module.
            if os.environ.get(TRACEBACK_VARIABLE) and (error.__cause__ or not isinstance(error, TritonkitError)):
                raise
            if isinstance(error, KeyboardInterrupt) and os.environ.get("LOCAL_RANK", "0") != "0":
                raise typer.Exit(exit_code(error)) from None  # torchrun stops all processes when one has failed
            code, message = _code_and_message(error)
            if kwargs.get("as_json"):
                shown: dict[str, Any] = {"type": type(error).__name__, "code": code, "message": message}
                if isinstance(error, TritonkitError) and error.problems:
                    shown["problems"] = [vars(problem) for problem in error.problems]
                document = getattr(error, "document", None)
                extra = {"document": document} if isinstance(error, CheckFailedError) and document else {}
                print_json({"error": shown, **extra})
            exit_with_error(message, code=exit_code(error))

    return wrapped


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, CheckFailedError):
        return 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, ExternalError) or (isinstance(error, OSError) and is_external_failure(error)):
        return 3
    return 2 if isinstance(error, TritonkitError | OSError | ModuleNotFoundError) else 3


def _code_and_message(error: BaseException) -> tuple[str, str]:
    """Return the stable code of an error, one of tritonkit's or of Python's, and its message."""
    match error:
        case TritonkitError():
            return error.code, str(error)
        case KeyboardInterrupt():
            return "process.interrupted", str(error) or "stopped by Ctrl-C"
        case ModuleNotFoundError():
            return "install.missing_module", f"{error.name} is missing; install it with: pip install 'tritonkit[all]'"
        case OSError():
            code = "system.failed" if is_external_failure(error) else "system.file"
            return code, f"{error.filename or 'an unnamed file'}: {error.strerror or error}"
    report = f"Please report it with the output of the same command with {TRACEBACK_VARIABLE}=1"
    return "internal.error", f"unexpected {type(error).__name__}: {error}. {report}"


def exit_with_error(message: str, code: int) -> None:
    """Print `error: message` on stderr and exit with `code`."""
    warn(f"error: {message}")
    raise typer.Exit(code)


def print_text(text: str) -> None:
    """Print text on stdout; control characters are escaped."""
    print(printable(text, keep="\n\t"), flush=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; pydantic values are dumped, and NaN becomes null."""
    ascii_only = not standard_streams.takes_unicode()
    try:
        text = json.dumps(document, default=_plain, ensure_ascii=ascii_only, allow_nan=False, indent=2)
    except ValueError:
        plain = json.loads(json.dumps(document, default=_plain), parse_constant=lambda constant: None)
        text = json.dumps(plain, ensure_ascii=ascii_only, indent=2)
    print(printable_json(text))


_MOST_METRICS = 40


def quality_tables(quality: Mapping[str, Mapping[str, float]], title: str = "") -> None:
    """Print a table for each set of images: a row a metric, a column a model. Keys of quality: `MODEL on IMAGES`.

    title: words before those of the images. Of many metrics those of single classes, such as `f1/cat`, are left out.
    """
    by_images: dict[str, dict[str, Mapping[str, float]]] = {}
    for measured, metrics in quality.items():
        model, _, images = measured.partition(" on ")
        by_images.setdefault(images, {})[model] = metrics
    for images, models in by_images.items():
        names = list(dict.fromkeys(name for metrics in models.values() for name in metrics))
        if len(names) > _MOST_METRICS:
            names = [name for name in names if "/" not in name]
        print_text(f"{title}measured on {images}:")
        rows = [
            [name, *(f"{metrics[name]:.4f}" if name in metrics else "" for metrics in models.values())]
            for name in names
        ]
        table(("metric", *models), rows)


def duration(seconds: float) -> str:
    """Write a time with its two largest units: `12 s`, `3 min 29 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], paths: Container[str] = PATH_COLUMNS) -> None:
    """Print a table on stdout, as wide as the terminal, or as wide as its text where stdout is not a terminal.

    paths: the columns whose cells lose their beginning where space is short.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tritonkit.system.path_cell import PathCell

    console = Console()
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        grid.add_column(Text(printable(name)))
    cell_types = [PathCell if name in paths else Text for name in header]
    longest = 0
    for row in rows:
        cells = [cell_type(printable(text)) for cell_type, text in zip(cell_types, row, strict=True)]
        grid.add_row(*cells)
        longest = max([longest, *(cell_len(cell.path) for cell in cells if isinstance(cell, PathCell))])
    if not console.is_terminal:
        console.width = max(console.width, 160, 100 + longest)
    console.print(grid)


@contextmanager
def progress(first: str) -> Iterator[Callable[[str], None]]:
    """Show the current step on stderr, starting with `first`; yield a function that shows the next step."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status(Text(printable(first))) as status:

        def report(step: str) -> None:
            status.update(Text(printable(step)))
            if not console.is_terminal:
                warn(printable(step))  # on one line

        report(first)
        yield report


def track_progress(items: Iterable[Item], doing: str, total: int | None, every_s: float = 30.0) -> Iterator[Item]:
    """Yield the items and report their count on stderr: a bar on a terminal, else a line every `every_s` seconds.

    doing: title of the progress. total: the number of items, None if unknown.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, doing, total=total, console=console, transient=True)
        return
    reported_at = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if time.monotonic() - reported_at >= every_s:
            reported_at = time.monotonic()
            warn(f"{doing}: {number}{'' if total is None else f' of {total}'}")


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C while the block runs: it raises KeyboardInterrupt.

    Docker, Kubernetes and Slurm stop a job with SIGTERM. A handler that was set before stays in place.
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
