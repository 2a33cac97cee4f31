"""Names, labels and messages for a terminal, without the characters that control it."""

from __future__ import annotations

import re

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, DEL and C1; Unicode's marks of direction (Bidi_Control) and its separators of lines and paragraphs."""


def printable(text: str, keep: str = "") -> str:
    """Escape what a terminal would obey, such as `\\x1b`; characters of `keep` stay as they are."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def printable_json(text: str) -> str:
    """Escape the control characters of a JSON document as JSON does it; line breaks between values stay."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
