"""Escapes control characters in names, labels and messages before they reach a terminal."""

from __future__ import annotations

import re

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, DEL and C1; Unicode's direction marks (Bidi_Control), and its line and paragraph separators."""


def printable(text: str, keep: str = "") -> str:
    """Escape control characters such as `\\x1b`; characters in `keep` are not changed."""
    return _CONTROLS.sub(
        lambda match: match[0] if match[0] in keep else match[0].encode("unicode_escape").decode("ascii"), text
    )


def printable_json(text: str) -> str:
    """Escape the control characters of a JSON document by JSON's rules; line breaks between values are not changed."""
    return _CONTROLS.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
