"""Write docs/cli.md, the reference of all commands, from the commands themselves. `make reference` runs this."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"


def console_scripts() -> dict[str, str]:
    """Return `module:attribute` of each installed command by name."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"])


def escape_markdown(text: str) -> str:
    """Escape a help text for Markdown."""
    return re.sub(r"([*<])", r"\\\1", text)


def description(text: str, program: str) -> str:
    """Convert a long help text to Markdown; indented lines and commands become code blocks."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        example = re.match(rf"\* (?={program} )|    ", paragraph)
        block = paragraph[example.end() :] if example else escape_markdown(paragraph)
        if example and parts and parts[-1].endswith("\n```"):
            parts[-1] = f"{parts[-1].removesuffix('```')}{block}\n```"
        else:
            parts.append(f"```text\n{block}\n```" if example else block)
    return "\n\n".join(parts)


def parameters(command: Any, context: Any) -> Iterator[str]:
    """Yield a list of arguments, then a list of options for each help panel."""
    panels: dict[str, list[str]] = {}
    for parameter in sorted(command.get_params(context), key=lambda parameter: parameter.param_type_name):
        record = parameter.get_help_record(context)
        if record and "--help" not in parameter.opts:
            name = re.sub(r"<(?:list\[)?(\w+)(?:\]| range)?>", lambda match: f"<{match[1].lower()}>", record[0])
            text = escape_markdown(" ".join(record[1].split()))
            panel = parameter.rich_help_panel or f"{parameter.param_type_name.capitalize()}s"
            panels.setdefault(panel, []).append(f"- `{name}`: {text}".rstrip(": "))
    yield from (f"**{panel}**\n\n" + "\n".join(lines) for panel, lines in panels.items())


def sections(command: Any, path: list[str], parent: Any = None) -> Iterator[str]:
    """Yield the section of a command, then those of its subcommands."""
    context = typer.Context(command, parent=parent, info_name=path[-1])
    children = getattr(command, "commands", {})
    yield f"{'#' * (len(path) + 1)} {' '.join(path)}"
    if not children:
        yield f"```text\n{' '.join([*path, *command.collect_usage_pieces(context)])}\n```"
    yield description(command.help or "", path[0])
    if not children:
        yield from parameters(command, context)
    for name, child in children.items():
        if not child.hidden:
            yield from sections(child, [*path, name], context)


def page() -> str:
    """Return the text of the page."""
    parts = ["# Commands\n\nThe same text as with `--help`. `make reference` writes this page."]
    for name, target in console_scripts().items():
        module, _, application = target.partition(":")
        parts += sections(typer.main.get_command(getattr(importlib.import_module(module), application)), [name])
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
