"""The templates and style that all HTML pages share: one palette, light and dark, for desktop and phone."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined


def templates(folder: Path) -> Environment:
    """Load the Jinja templates of `folder`, which may include the shared ones: `page.css` and `sheet.html.jinja`.

    Values are escaped, and an undefined name is an error.
    """
    return Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), FileSystemLoader(Path(__file__).parent)]),
        autoescape=True,  # select_autoescape would not match the suffix .jinja
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(image: bytes, kind: str) -> str:
    """Return an encoded image as the address of itself, so that a page needs no other file. kind: `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
