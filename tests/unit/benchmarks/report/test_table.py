from __future__ import annotations

import pytest
from rich.text import Text

from benchmarks.records.record import Record
from benchmarks.report.table import print_record


def test_the_tables_fit_80_columns(
    record: Record, open_record: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    for shown in (record, open_record):
        print_record(shown)
        text = Text.from_ansi(capsys.readouterr().out).plain
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
        for level in shown.levels:
            assert f"{level.p50_ms:,.2f}" in text
    for words in ("refused", "slip max", "colours", "3-4", "J/image", "INCOMPLETE: 3 of 4 levels"):
        assert words in text
    assert f"{open_record.levels[-1].p99_ms:,.1f}" not in text
