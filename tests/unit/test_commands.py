"""Options and arguments of the commands stay: scripts of users rely on them."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from tests.programs import ROOT

PUBLISHED = Path(__file__).with_name("options_0_1.json")
"""Options and arguments of each command of 0.1."""
_SERVERS = {"--url", "--tls-ca", "--tls-cert", "--tls-key"}
REMOVED = {"builder export": {"--converter", *_SERVERS}, "builder versions": _SERVERS}
"""Options of 0.1 that are gone, by command. CHANGELOG lists each under Removed."""


def commands() -> Iterator[tuple[str, Any]]:
    """Each command that has no subcommands, with its full name."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in scripts.items():
        module, _, application = target.partition(":")
        yield from _below(typer.main.get_command(getattr(importlib.import_module(module), application)), name)


def _below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield name, command
    for child, below in children.items():
        yield from _below(below, f"{name} {child}")


def test_every_option_and_argument_of_the_first_version_is_there() -> None:
    published = json.loads(PUBLISHED.read_text())
    present = {
        name: {
            "options": sorted(text for each in command.params for text in _options(each)),
            "arguments": [each.name for each in command.params if each.param_type_name == "argument"],
        }
        for name, command in commands()
    }
    for name, expected in published.items():
        assert name in present, name
        assert set(expected["options"]) - set(present[name]["options"]) == REMOVED.get(name, set()), name
        assert len(present[name]["arguments"]) == len(expected["arguments"]), name


def _options(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
