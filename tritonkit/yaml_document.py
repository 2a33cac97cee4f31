"""A YAML document that knows the line of each key, so that messages can name it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from tritonkit.errors import ConfigError, Problem
from tritonkit.remotes.addresses import public_name
from tritonkit.spec import NAME_PATTERN

Key = tuple[str, ...]


@dataclass
class Document:
    """The values of a YAML file, changed by overrides."""

    values: dict[str, Any]
    origins: dict[Key, str]
    """Where each key was set: `line 7`, or `override lr=1`."""
    duplicates: list[Problem] = field(default_factory=list)
    source_text: dict[Key, str] = field(default_factory=dict)
    """The value of each key as written, before YAML parses it."""

    @classmethod
    def read(cls, path: Path, advice: str = "") -> Document:
        """Read a YAML mapping. advice: what to do without the file, for its error. Raises ConfigError."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file{advice}", code="config.not_found") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a readable text file ({error})", code="config.unreadable") from error
        try:
            values, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
            lines = list(_lines(root, ()))
        except yaml.MarkedYAMLError as error:
            raise ConfigError(f"{path}: not YAML: {_with_position(error)}", code="config.not_yaml") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not YAML: {error}", code="config.not_yaml") from error
        if not isinstance(values, dict):
            got = "nothing" if values is None else f"a {type(values).__name__}"
            raise ConfigError(
                f"{path}: expected `key: value` pairs at the top level, got {got}", code="config.not_a_mapping"
            )
        return cls._from_lines(values, lines)

    @classmethod
    def _from_lines(cls, values: dict[str, Any], lines: list[_Line]) -> Document:
        document = cls(values, {})
        for key, number, text in lines:
            document.source_text[key] = text
            if key in document.origins:
                document.duplicates.append(
                    Problem(
                        "config.duplicate_key",
                        f"line {number}, {'.'.join(key)}: set twice, first in {document.origins[key]}",
                    )
                )
            document.origins[key] = f"line {number}"
        return document

    def override(self, text: str) -> Problem | None:
        """Apply `dotted.key=value`; return the problem if it cannot be applied."""
        dotted, separator, value_text = text.partition("=")
        key = tuple(dotted.strip().split("."))
        if not separator or not all(key):
            return Problem(
                "config.override_syntax", f"override {text!r}: expected KEY=VALUE, for example optimizer.lr=0.001"
            )
        try:
            value, node = yaml.safe_load(value_text), yaml.compose(value_text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError) as error:
            return Problem(
                "config.override_not_yaml",
                f"override {text!r}: the value is not YAML ({' '.join(str(error).split())})",
            )
        if problem := set_value(self.values, key, value):
            return Problem("config.override_not_a_section", f"override {text!r}: {problem}")
        self.source_text |= {key: _text(node), **{inner: text for inner, _, text in _lines(node, key)}}
        for inner in [each for each in self.origins if each[: len(key)] == key]:
            del self.origins[inner]  # replaced with the value around it
        self.origins[key] = f"override {public_name(text)!r}"
        return None

    def describe(self, details: ErrorDetails, schema: type[BaseModel]) -> Problem:
        """Describe an error of pydantic in one line: key, place, expected and actual value."""
        key: Key = tuple(map(str, details["loc"]))
        # For a bad key, pydantic appends "[key]" to its location.
        key = key[:-1] if key[-1:] == ("[key]",) else key
        problem = self._needs_quotes(details, key) or _describe_value(details, key, schema)
        place = f"{'.'.join(key)}: " if key else ""
        return Problem(problem.code, f"{self.origin(key)}{place}{problem.message}")

    def _needs_quotes(self, details: ErrorDetails, key: Key) -> Problem | None:
        """Describe text without quotes that YAML parses as another type, such as `no`."""
        value = details["input"]
        if details["type"] not in ("string_type", "path_type") or isinstance(value, list | dict | None):
            return None
        text = self.source_text.get(key) or ("no" if value is False else "yes" if value is True else str(value))
        parsed = (
            str(value).lower()
            if isinstance(value, bool)
            else "a number"
            if isinstance(value, int | float)
            else "a date"
        )
        return Problem("config.needs_quotes", f"YAML reads `{text}` as {parsed}; write '{text}' in quotes")

    def origin(self, key: Key) -> str:
        """Return where the key was set, such as `line 7, `; for a missing key, where its nearest parent was set."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return f"{self.origins[key[:length]]}, "
        return ""


def set_value(values: dict[str, Any], key: Key, value: Any) -> str:
    """Set a key of nested sections, which are created if missing; return the problem, empty if there is none."""
    section = values
    for depth, part in enumerate(key[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            return f"{'.'.join(key[:depth])} is a value, so it has no key {key[depth]!r}"
    section[key[-1]] = value
    return ""


_Line = tuple[Key, int, str]


def _lines(node: yaml.Node | None, parent: Key) -> Iterator[_Line]:
    """Yield each key below a node, its line counted from 1, and its value as text."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = (*parent, str(name.value))
            yield key, name.start_mark.line + 1, _text(value)
            yield from _lines(value, key)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            key = (*parent, str(index))
            yield key, value.start_mark.line + 1, _text(value)
            yield from _lines(value, key)


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _with_position(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{position}{error.problem or error.context}"


def _describe_value(details: ErrorDetails, key: Key, schema: type[BaseModel]) -> Problem:
    got = f"got {details['input']!r:.80}"
    match details["type"]:
        case "missing":
            return Problem("config.missing_key", "is required")
        case "extra_forbidden" | "unexpected_keyword_argument":
            return Problem("config.unknown_key", f"unknown key{_suggestion(key, schema)}")
        case "value_error":
            return Problem("config.rule", details["msg"].removeprefix("Value error, "))
        case "string_pattern_mismatch" if details["ctx"]["pattern"] == NAME_PATTERN:
            return Problem(
                "config.name_pattern",
                f"expected only letters, digits, `.`, `_` and `-`, starting with a letter or digit, {got}",
            )
        case code if "." in code:  # of an option of the export
            return Problem(code, details["msg"])
        case "model_type" | "dataclass_type":
            return Problem("config.not_a_section", f"expected a section with keys, {got}")
        case _:
            return Problem("config.value", f"{details['msg'].replace('Input should be', 'expected', 1)}, {got}")


def _suggestion(key: Key, schema: type[BaseModel]) -> str:
    """Suggest the known key that is most similar to an unknown one, first from the same section."""
    known = list(_known_keys(schema, ()))
    section = [path[-1] for path in known if path[:-1] == key[:-1]]
    similar = [(*key[:-1], name) for name in difflib.get_close_matches(key[-1], section, n=1)]
    elsewhere = [path for path in known if path[-1] == key[-1]]
    for path in similar + elsewhere:
        return f"; did you mean {'.'.join(path)}?"
    return f"; known keys of this section: {', '.join(section)}" if section else ""


def _known_keys(schema: type, parent: Key) -> Iterator[Key]:
    """Yield the keys of a section, which is a model or a dataclass, and of the sections in it."""
    if issubclass(schema, BaseModel):
        for name, info in schema.model_fields.items():
            yield (*parent, name)
            parts = get_args(info.annotation) if isinstance(info.annotation, UnionType) else (info.annotation,)
            for part in parts:
                if isinstance(part, type):
                    yield from _known_keys(part, (*parent, name))
    elif is_dataclass(schema):
        yield from ((*parent, entry.name) for entry in fields(schema))
