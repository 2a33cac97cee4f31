"""The words that repeat a command."""

from __future__ import annotations

from collections.abc import Container

import typer


def typed_arguments(context: typer.Context, without: Container[str] = ()) -> tuple[str, ...]:
    """Return the arguments and options that were typed on the command line, such as `cats --batch 8`.

    without: names of parameters to leave out.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name, source = parameter.name or "", context.get_parameter_source(parameter.name or "")
        if name in without or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            words += map(str, values)
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [word for each in values for word in (parameter.opts[0], str(each))]
    return tuple(words)
