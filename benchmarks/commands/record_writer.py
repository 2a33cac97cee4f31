"""Writes the records of a run to their files, after each level and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tritonkit.errors import TritonkitError
from tritonkit.system.console import exit_code, exit_with_error, print_json, print_text

if TYPE_CHECKING:
    from benchmarks.records.record import Record


class RecordWriter:
    """Keeps the latest records, and writes each to its file if it has one."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        """Check that the files can be written. Raises what `check_writable` raises."""
        from benchmarks.records.record import check_writable

        self.paths = [path for path in paths if path is not None]
        for path in self.paths:
            check_writable(path)
        self.records: Sequence[Record] = ()

    def __call__(self, records: Sequence[Record]) -> None:
        """Keep and write the records so far; a write error is ignored, because the final write may succeed."""
        self.records = records
        with suppress(TritonkitError):
            self._write()

    def finish_incomplete(self, reason: BaseException, as_json: bool) -> None:
        """Show and write the incomplete records with the reason, and exit with the exit code of the reason."""
        message = str(reason) or "stopped by Ctrl-C"
        self.records = [record.model_copy(update={"incomplete": message}) for record in self.records]
        self.finish(as_json)
        exit_with_error(message, code=exit_code(reason))

    def finish(self, as_json: bool) -> None:
        """Show and write the final records; exit with an error if one cannot be written."""
        from benchmarks.report.table import print_record

        try:
            if as_json:
                print_json(self.records[0] if len(self.records) == 1 else {"records": self.records})
            else:
                for record in self.records:
                    print_record(record)
        finally:
            try:
                self._write()
            except TritonkitError as error:
                exit_with_error(str(error), code=exit_code(error))
        if not as_json:
            for path in self.paths:
                print_text(f"record: {path}")

    def _write(self) -> None:
        from benchmarks.records.record import write_record

        for path, record in zip(self.paths, self.records, strict=False):
            write_record(path, record)
