"""Tokens of web services, which are sent in a header."""

from __future__ import annotations

import re


def token_problem(variable: str, token: str | None) -> str:
    """Return why a header cannot hold a token, without the token; empty if it can, or if there is none."""
    if not token or re.fullmatch("[!-~]+", token):
        return ""
    return (
        f"${variable}: is a token with a space, a line end or another character that a header cannot hold; expected "
        "ASCII letters, digits and punctuation; set it again, without what follows the token"
    )
