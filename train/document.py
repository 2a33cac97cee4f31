"""A YAML document that remembers where each key stands, so that every problem can be pointed at."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from model.errors import ConfigError
from model.spec import NAME_PATTERN

Key = tuple[str, ...]


@dataclass
class Document:
    """The values of a YAML file, and of overrides put over them."""

    values: dict[str, Any]
    origins: dict[Key, str]
    """By dotted key, split: `line 7`, or `override lr=1`."""
    duplicates: list[str] = field(default_factory=list)
    written: dict[Key, str] = field(default_factory=dict)
    """By dotted key, split, what stands there as text, before YAML reads it."""

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a YAML mapping. Raises ConfigError."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file; see examples/digits.yaml for one to start from") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a readable text file ({error})") from error
        try:
            values, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
            lines = list(_lines(root, ()))
        except yaml.MarkedYAMLError as error:
            raise ConfigError(f"{path}: not YAML: {_located(error)}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not YAML: {error}") from error
        if not isinstance(values, dict):
            came = "nothing" if values is None else f"a {type(values).__name__}"
            raise ConfigError(f"{path}: expected `key: value` pairs at the top level, got {came}")
        return cls._from_lines(values, lines)

    @classmethod
    def _from_lines(cls, values: dict[str, Any], lines: list[_Line]) -> Document:
        document = cls(values, {})
        for key, number, text in lines:
            document.written[key] = text
            if key in document.origins:
                document.duplicates.append(
                    f"line {number}, {'.'.join(key)}: stands twice, before in {document.origins[key]}"
                )
            document.origins[key] = f"line {number}"
        return document

    def override(self, text: str) -> str | None:
        """Apply `dotted.key=value`; returns the problem if it cannot be applied."""
        dotted, separator, written = text.partition("=")
        key = tuple(dotted.strip().split("."))
        if not separator or not all(key):
            return f"override {text!r}: expected KEY=VALUE, for example optimizer.lr=0.001"
        try:
            value, node = yaml.safe_load(written), yaml.compose(written, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, ValueError) as error:
            return f"override {text!r}: the value is not YAML ({' '.join(str(error).split())})"
        section = self.values
        for depth, part in enumerate(key[:-1], start=1):
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                return f"override {text!r}: {'.'.join(key[:depth])} is a value, so it holds no {key[depth]!r}"
        section[key[-1]] = value
        self.written |= {key: _text(node), **{inner: text for inner, _, text in _lines(node, key)}}
        self.origins[key] = f"override {text!r}"
        return None

    def describe(self, problem: ErrorDetails, schema: type[BaseModel]) -> str:
        """One line for a problem that pydantic found: where, what was expected, what came."""
        key: Key = tuple(map(str, problem["loc"]))
        # Of keys pydantic gives the value as YAML read it.
        key = key[:-1] if key[-1:] == ("[key]",) else key
        complaint = self._read_otherwise(problem, key) or _complaint(problem, key, schema)
        return f"{self._place(key)}{'.'.join(key) or 'document'}: {complaint}"

    def _read_otherwise(self, problem: ErrorDetails, key: Key) -> str | None:
        """What to do where YAML makes something else of a word that is to be text, such as of `no`."""
        came = problem["input"]
        if problem["type"] not in ("string_type", "path_type") or isinstance(came, list | dict | None):
            return None
        written = self.written.get(key) or ("no" if came is False else "yes" if came is True else str(came))
        kind = (
            str(came).lower() if isinstance(came, bool) else "a number" if isinstance(came, int | float) else "a date"
        )
        return f"YAML reads `{written}` as {kind}; write '{written}' in quotes"

    def _place(self, key: Key) -> str:
        """The nearest key that stands somewhere: a missing one has no line of its own."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return f"{self.origins[key[:length]]}, "
        return ""


_Line = tuple[Key, int, str]


def _lines(node: yaml.Node | None, above: Key) -> Iterator[_Line]:
    """Each key below a node, the line it starts on, counted from 1, and its value as text."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = (*above, str(name.value))
            yield key, name.start_mark.line + 1, _text(value)
            yield from _lines(value, key)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            key = (*above, str(index))
            yield key, value.start_mark.line + 1, _text(value)
            yield from _lines(value, key)


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _located(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{error.problem or error.context}"


def _complaint(problem: ErrorDetails, key: Key, schema: type[BaseModel]) -> str:
    came = f"got {problem['input']!r:.80}"
    match problem["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return f"unknown key{_suggestion(key, schema)}"
        case "value_error":
            return problem["msg"].removeprefix("Value error, ")
        case "string_pattern_mismatch" if problem["ctx"]["pattern"] == NAME_PATTERN:
            return f"letters, digits, `.`, `_` and `-` only, beginning with a letter or digit, {came}"
        case "model_type":
            return f"expected a section with keys of its own, {came}"
        case _:
            return f"{problem['msg'].replace('Input should be', 'expected', 1)}, {came}"


def _suggestion(key: Key, schema: type[BaseModel]) -> str:
    """The known key nearest to an unknown one: in its own section first, then in any."""
    known = list(_known(schema, ()))
    section = [path[-1] for path in known if path[:-1] == key[:-1]]
    near = [(*key[:-1], name) for name in difflib.get_close_matches(key[-1], section, n=1)]
    elsewhere = [path for path in known if path[-1] == key[-1]]
    for path in near + elsewhere:
        return f"; did you mean {'.'.join(path)}?"
    return f"; known here: {', '.join(section)}" if section else ""


def _known(schema: type[BaseModel], above: Key) -> Iterator[Key]:
    for name, info in schema.model_fields.items():
        yield (*above, name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _known(info.annotation, (*above, name))
