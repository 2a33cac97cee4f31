"""How commands end: one line on stderr and an exit code; with --json one document on stdout."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from tritonkit.errors import BatchError, CheckFailedError, ConfigError, InferenceError, ServerError, TritonkitError
from tritonkit.system.console import (
    JsonOption,
    application,
    reports_errors,
)

ERRORS: dict[str, BaseException] = {
    error.__class__.__name__: error
    for error in (
        CheckFailedError("the verdict failed"),
        ConfigError("epochs: 0"),
        BatchError("wrong shape"),
        ServerError("no answer"),
        InferenceError("refused"),
        TritonkitError("anything"),
        KeyboardInterrupt(),
    )
}


@pytest.fixture
def app() -> typer.Typer:
    application_under_test = application("Raise errors.")

    @application_under_test.callback()
    def group() -> None:
        """Have subcommands."""

    @application_under_test.command()
    @reports_errors
    def fail(kind: str, as_json: JsonOption = False) -> None:
        raise ERRORS[kind]

    return application_under_test


def test_command_shows_its_help_when_called_without_arguments(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Raise errors." in result.output
