"""The progress of a transfer, in bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tritonkit.system.standard_streams import warn
from tritonkit.system.terminal_escape import printable

_EVERY_S = 30.0


@contextmanager
def transfer_progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that any thread calls with the bytes that arrived: a bar on a terminal, else a line at times.

    total: bytes to expect, None if unknown.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    started = reported_at = time.monotonic()
    arrived, lock = 0, threading.Lock()
    title_column = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
    size_column = DownloadColumn(table_column=Column(no_wrap=True))
    columns = (title_column, BarColumn(20), size_column)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(escape(printable(title)), total=total)

        def advance(size: int) -> None:
            nonlocal arrived, reported_at
            with lock:
                arrived += size
                is_due = not console.is_terminal and time.monotonic() - reported_at > _EVERY_S
                reported_at = time.monotonic() if is_due else reported_at
            bar.advance(task, size)
            if is_due:
                warn(f"{title}: {_megabytes(arrived)}{'' if total is None else f' of {_megabytes(total)}'}")

        yield advance
    warn(f"{title}: {_megabytes(arrived)} in {time.monotonic() - started:.1f} s")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
