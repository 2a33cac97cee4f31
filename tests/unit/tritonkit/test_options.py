"""An option that is declared once reaches the command line, the YAML of a training and Python."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field, ValidationError
from typer.testing import CliRunner

from builder.request import ExportRequest
from tests.errors import raises
from train.config.loading import Config
from tritonkit.errors import InputError
from tritonkit.export_options import ExportOptions
from tritonkit.options import CommandLine, arguments_of, options_from, options_of
from tritonkit.system.console import reports_errors


class Salted(ExportOptions):
    """Options with one more."""

    panel = "Kitchen"

    salt: Annotated[Literal["none", "little", "much"], CommandLine(metavar="AMOUNT")] = "little"
    """How much salt to add."""
    spoons: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Number of spoons."""


class SaltedRequest(Salted, ExportRequest):
    """A request with one more option."""


class SaltedConfig(Config):
    """A training configuration whose export has one more option."""

    export: Salted | None = None


application = typer.Typer()


@application.command()
@reports_errors
@options_of(SaltedRequest)
def cook(request: SaltedRequest) -> None:
    """Print the options."""
    print(request.source, request.salt, request.spoons, request.onnx)


def test_new_option_is_in_the_help_with_its_panel_text_and_default() -> None:
    shown = CliRunner().invoke(application, ["--help"], env={"COLUMNS": "200"}).stdout
    panel = shown[shown.index("Kitchen") :]
    for text in ("--salt", "AMOUNT", "How much salt to add. [default: little]", "--spoons", "<int 1..>"):
        assert text in panel
    assert "<fp32|fp16|bf16|int8>" in shown
    assert "--source" not in shown, "what has no default is an argument"


def test_new_option_is_read_from_the_command_line() -> None:
    done = CliRunner().invoke(application, ["pets.safetensors", "--salt", "much", "--onnx", "fp16"])
    assert done.stdout == "pets.safetensors much None fp16\n"
    wrong = CliRunner().invoke(application, ["pets.safetensors", "--salt", "more", "--spoons", "0", "--opt-batch", "4"])
    assert wrong.exit_code == 2
    assert [line.partition(":")[0] for line in wrong.stderr.splitlines()] == [
        "error",
        "--salt more",
        "--spoons 0",
    ]


def test_new_option_is_in_the_schema_of_the_yaml() -> None:
    schema = SaltedConfig.model_json_schema()
    option = schema["$defs"]["Salted"]["properties"]["salt"]
    assert (option["description"], option["default"]) == ("How much salt to add.", "little")
    assert "salt" not in Config.model_json_schema()["$defs"]["ExportOptions"]["properties"]


def test_new_option_is_an_argument_in_python() -> None:
    assert SaltedRequest(source="pets.safetensors", salt="much").salt == "much"
    with pytest.raises(ValidationError, match="salt"):
        SaltedRequest.model_validate({"source": "pets.safetensors", "salt": "more"})


def test_options_are_the_same_after_a_command_line() -> None:
    options = ExportOptions(
        trt="fp16",
        gpus=(0, 1),
        limit=("fp16.relative=0.1",),
        repair=False,
        dynamic_batching=False,
        accelerator=None,
        cuda_graphs=True,
        versions="latest:2",
        time_limit_s=60,
        compute_capabilities=("8.9", "12.0"),
    )
    seen: list[ExportOptions] = []
    reader = typer.Typer()
    reader.command()(options_of(ExportOptions)(seen.append))
    done = CliRunner().invoke(reader, list(arguments_of(options)))
    assert done.exit_code == 0, done.output
    assert seen == [options]
    assert list(arguments_of(ExportOptions(accelerator=()))) == ["--accelerator", "none"]
    assert options_from(ExportOptions, {"accelerator": ["none"]}).accelerator == ()


def test_single_problem_gives_its_own_code() -> None:
    with raises(InputError, "option.two_formats") as caught:
        options_from(ExportOptions, {"onnx": "fp16", "trt": "fp16"})
    assert caught.value.code == "option.two_formats"
