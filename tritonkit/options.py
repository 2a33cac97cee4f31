"""Options that are declared once, as fields of a class: commands, sections of YAML and Python take them from there.

A field's name, type, default and docstring are those of the option; the class names the panel of `--help`. A field
without a default is an argument of the command. Rules are validators, whose errors are reported together.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from tritonkit.errors import InputError, Problem

# os.path.expanduser keeps the name of an unknown user; Path.expanduser raises RuntimeError.
UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]  # noqa: PTH111


def _input_path(value: Any) -> Path | str:
    """Keep an address as text, because a Path writes `s3://` as `s3:/`."""
    if not isinstance(value, str | Path):
        raise PydanticCustomError("path_type", "Input is not a valid path")
    if "://" not in str(value):
        return Path(os.path.expanduser(value))  # noqa: PTH111 - as above
    if re.search(r"://[^/?#@]*:[^/?#@]*@", str(value).removeprefix("dvc://")):
        raise option_error(
            "contains a password, which would be stored with the options; put it into ~/.netrc or the environment",
            code="option.password",
        )
    return str(value)


InputPath = Annotated[
    Path | str, PlainValidator(_input_path), WithJsonSchema({"type": "string", "format": "path"}, mode="validation")
]
"""A path, or an address such as `s3://bucket/folder` as text; `tritonkit.remotes.local_path` opens both."""
_LARGEST_SHOWN = 1e6
"""Larger bounds are not shown in `--help`."""


@dataclass(frozen=True)
class CommandLine:
    """How an option differs on the command line from what its name, type and class say; for `Annotated`."""

    flag: str | None = None
    metavar: str | None = None
    panel: str | None = None
    code: str | None = None
    """The error code of a value that the type refuses."""


class Options(BaseModel):
    """Base of options. Immutable; refuses unknown names, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    panel: ClassVar[str | None] = None
    """The heading in `--help` above the options that this class declares."""

    @classmethod
    def flag_of(cls, name: str) -> str:
        """The flag of an option, such as `--max-batch`."""
        return _command_line(cls.model_fields[name]).flag or f"--{name.replace('_', '-')}"

    @classmethod
    def panel_of(cls, name: str) -> str | None:
        """The panel of an option."""
        owner = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
        return _command_line(cls.model_fields[name]).panel or (owner.panel if issubclass(owner, Options) else None)


Model = TypeVar("Model", bound=Options)


def option_error(message: str, *, code: str) -> PydanticCustomError:
    """The error of a validator. In the message, names of options stand in backticks: a command shows them as flags."""
    return PydanticCustomError(code, message)


def options_of(model: type[Model]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a class, in place of its first parameter, which receives them as one value.

    The command raises InputError that lists all problems of the options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            options = options_from(model, {name: values.pop(name) for name in model.model_fields})
            command(options, **values)

        functools.update_wrapper(run, command)
        del run.__wrapped__  # type: ignore[attr-defined]
        _, *others = inspect.signature(command, eval_str=True).parameters.values()
        declared = [_parameter(model, name) for name in model.model_fields]
        parameters = [*declared, *(other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def options_from(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Read the values of a command line; None and an empty list are not set. Raises InputError for all problems."""
    given = {
        name: value
        for name, value in values.items()
        if value is not None and value != [] and value != model.model_fields[name].default
    }
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = [_problem(model, details) for details in error.errors(include_url=False)]
    code = problems[0].code if len(problems) == 1 else "option.invalid"
    raise InputError("\n".join(map(str, problems)), code=code, problems=problems)


def arguments_of(options: Options) -> Iterator[str]:
    """The options that differ from their defaults, as arguments of the command."""
    for name, field in type(options).model_fields.items():
        value, flag = getattr(options, name), options.flag_of(name)
        if value == field.default:
            continue
        match _command_line_type(field):
            case kind if kind is bool:
                yield flag if value else flag.replace("--", "--no-", 1)
            case kind if kind is list:
                yield from (part for text in value or ["none"] for part in (flag, str(text)))
            case _:
                yield from (flag, _text(value))


def _parameter(model: type[Options], name: str) -> inspect.Parameter:
    """The parameter that Typer reads: type on the command line, flag, help, panel and default."""
    import typer  # the check of a GPU runs where Typer is not installed

    field, flag = model.model_fields[name], model.flag_of(name)
    line, kind = _command_line(field), _command_line_type(field)
    metavar = line.metavar or _metavar(field, kind)
    info: Any
    if field.is_required() and line.flag is None:
        info = typer.Argument(help=field.description, metavar=metavar)
    else:
        both = kind is bool and field.default is not False
        shown = f"{flag}/{flag.replace('--', '--no-', 1)}" if both else flag
        info = typer.Option(shown, help=field.description, metavar=metavar, rich_help_panel=model.panel_of(name))
    default = inspect.Parameter.empty if field.is_required() else field.default
    if kind is list:
        kind, default = list[str], None
    if default is None:
        kind = kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _command_line_type(field: FieldInfo) -> Any:
    """bool, int, float and Path are parsed by the command line, a list is repeated, anything else is text."""
    kinds = {kind for kind in _kinds(field.annotation) if kind is not types.NoneType}
    return kinds.pop() if len(kinds) == 1 and kinds <= {bool, int, float, Path, list} else str


def _metavar(field: FieldInfo, kind: Any) -> str | None:
    """The values that `--help` shows: the choices, or the range of a number; None for any value of the type."""
    choices = [
        choice
        for part in (field.annotation, *get_args(field.annotation))
        for choice in get_args(part)
        if get_origin(part) is Literal
    ]
    if choices:
        return f"<{'|'.join(map(str, choices))}>"
    if not field.is_required() and {Path, str} == set(_kinds(field.annotation)) - {types.NoneType}:
        return "PATH"
    if kind not in (int, float):
        return None
    nested = [
        rule
        for part in get_args(field.annotation)
        for declared in getattr(part, "__metadata__", ())
        for rule in getattr(declared, "metadata", [declared])
    ]
    ends = {
        name: getattr(rule, name) for rule in (*field.metadata, *nested) for name in ("ge", "le") if hasattr(rule, name)
    }
    least, most = (_text(ends[name]) if ends.get(name, inf) < _LARGEST_SHOWN else "" for name in ("ge", "le"))
    return f"<{kind.__name__} {least}..{most}>" if least or most else None


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types of a union. A tuple of texts is a list; one of numbers is a text with commas between them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from _kinds(argument)
    elif origin is tuple:
        yield list if str in _kinds(arguments[0]) else str
    else:
        yield str if origin is Literal else annotation


def _command_line(field: FieldInfo) -> CommandLine:
    return next((entry for entry in field.metadata if isinstance(entry, CommandLine)), CommandLine())


def _text(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _problem(model: type[Options], details: ErrorDetails) -> Problem:
    """The problem that an error of pydantic describes, in terms of the command line."""

    def as_flag(name: re.Match[str]) -> str:
        return model.flag_of(name[1]) if name[1] in model.model_fields else name[0]

    kind, message = details["type"], re.sub(r"`(\w+)`", as_flag, details["msg"])
    name = next((part for part in details["loc"] if part in model.model_fields), None)
    is_own = "." in kind  # raised by `option_error`
    if not isinstance(name, str):
        return Problem(kind if is_own else "option.invalid", message)
    value = details["input"]
    shown = "" if isinstance(value, bool | dict) or kind == "option.password" else f" {_text(value)}"
    text = f"{model.flag_of(name)}{shown}: {message.replace('Input should be', 'expected', 1)}"
    code = kind if is_own else _command_line(model.model_fields[name]).code
    match kind:
        case _ if code:
            return Problem(code, text)
        case "literal_error":
            return Problem("option.unknown_choice", text)
        case "greater_than" | "greater_than_equal":
            return Problem("option.too_small", text)
        case "less_than" | "less_than_equal":
            return Problem("option.too_large", text)
    return Problem("option.invalid", text)
