"""Finds in Triton's log why models failed to load."""

from __future__ import annotations

import re

_VERSION_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_MODEL_FAILED = re.compile(r"failed to load model '(?P<model>[^']+)': (?P<reason>.*)")
_POLL_FAILED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)")
_FATAL = re.compile(r"^error: creating server: (?P<reason>.*)")


def load_failures(log: str) -> list[str]:
    """Return one line for each model that failed to load, else the reason why the server ended."""
    lines = log.splitlines()
    messages: dict[str, str] = {}
    for line in lines:
        for pattern in (_VERSION_FAILED, _MODEL_FAILED, _POLL_FAILED):
            if match := pattern.search(line):
                parts = match.groupdict()
                version = f" version {parts['version']}" if "version" in parts else ""
                # Without the Python traceback that Triton appends, with its escape sequences.
                reason = parts["reason"].split("\\n\\nAt:")[0].replace("\\n", " ").strip('" ')
                messages.setdefault(parts["model"], f"model {parts['model']}{version}: {reason}")
    if messages:
        return list(messages.values())
    return [match["reason"] for line in lines if (match := _FATAL.match(line))]
