from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from benchmarks.commands.arguments import typed_arguments


def test_a_command_is_repeated_by_what_was_typed() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    def measure(
        context: typer.Context,
        model: str,
        batch: int = 1,
        rate: str = "1",
        shape: Annotated[list[str] | None, typer.Option()] = None,
        shared_memory: Annotated[bool, typer.Option("--shared-memory")] = False,
        output: Path | None = None,
    ) -> None:
        seen.append(typed_arguments(context, without={"output"}))

    words = ["cats", "--batch", "1", "--shape", "a:2", "--shape", "b:3", "--shared-memory", "--output", "x.json"]
    CliRunner().invoke(app, words, catch_exceptions=False)
    assert seen == [tuple(words[:-2])]
