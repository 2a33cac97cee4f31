"""Writes the records of a run to their files, after each level and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tritonkit.errors import InputError, TritonkitError
from tritonkit.system.console import exit_code, exit_with_error, print_json, print_text

if TYPE_CHECKING:
    from benchmarks.records.compare import BenchmarkResult, RecordComparison
    from benchmarks.records.record import Record


class RecordWriter:
    """Keeps the latest records, writes each to its file, and compares them at the end."""

    def __init__(self, path: Path | None, count: int, old: BenchmarkResult | None) -> None:
        """Check that the files can be written. Raises what `check_writable` raises.

        path: of the first record; that of a second one has `-against` in its name. None writes no file.
        old: what the first record is compared with; None is the second record, if there is one.
        """
        from benchmarks.records.record import check_writable

        self.paths = [] if path is None else [path, path.with_stem(f"{path.stem}-against")][:count]
        for each in self.paths:
            check_writable(each)
        self._old = old
        self.records: Sequence[Record] = ()

    def __call__(self, records: Sequence[Record]) -> None:
        """Keep and write the records so far; a write error is ignored, because the final write may succeed.

        Raises InputError after the first level if the old record cannot be compared, so that no time is wasted.
        """
        from benchmarks.records.likeness import check_alike
        from benchmarks.records.record import Record

        self.records = records
        with suppress(TritonkitError):
            self._write()
        if isinstance(self._old, Record):
            check_alike(self._old, records[0])

    def finish_incomplete(self, reason: BaseException, as_json: bool) -> None:
        """Show and write the incomplete records with the reason, and exit with the exit code of the reason."""
        message = str(reason) or "stopped by Ctrl-C"
        self.records = [record.model_copy(update={"incomplete": message}) for record in self.records]
        self._show(None, as_json)
        exit_with_error(message, code=exit_code(reason))

    def finish(self, as_json: bool) -> RecordComparison | None:
        """Show and write the final records and their comparison.

        Exits with an error if a record cannot be written, or if the records cannot be compared.
        """
        from benchmarks.records.compare import compare

        new, *others = self.records
        old, comparison = self._old or next(iter(others), None), None
        try:
            comparison = None if old is None else compare(old, new)
        except InputError as error:
            self._show(None, as_json)
            exit_with_error(str(error), code=exit_code(error))
        self._show(comparison, as_json)
        return comparison

    def _show(self, comparison: RecordComparison | None, as_json: bool) -> None:
        from benchmarks.report.comparison import print_comparison
        from benchmarks.report.table import print_record

        try:
            if as_json:
                several = {"records": self.records, "comparison": comparison}
                print_json(self.records[0] if comparison is None and len(self.records) == 1 else several)
            else:
                for record in self.records:
                    print_record(record)
                if comparison is not None:
                    print_comparison(comparison)
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
