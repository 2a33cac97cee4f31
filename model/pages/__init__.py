"""The look that all HTML pages share: one palette, light and dark, at desktop and at phone width."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined


def templates(folder: Path) -> Environment:
    """The Jinja templates of `folder`, which may include the shared ones: `page.css` and `sheet.html.jinja`.

    Values are escaped, and an undefined name is an error.
    """
    return Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), FileSystemLoader(Path(__file__).parent)]),
        autoescape=True,  # by hand: select_autoescape looks at the suffix, which is .jinja
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
