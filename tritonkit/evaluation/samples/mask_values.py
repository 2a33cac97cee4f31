"""The mapping from values in mask files (numbers, ranges or colours) to classes. Loads without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

from pydantic import AfterValidator, BeforeValidator

IGNORE = "ignore"
"""Key in place of a class: these pixels count neither for the loss nor for metrics."""
BACKGROUND = "background"
BINARY = (BACKGROUND, "foreground")
"""The default labels of two classes."""
NONZERO = "nonzero"
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_GREY = 0x010101

Colour = tuple[int, int, int]
Entry = int | str | Colour
"""A number; a range such as `1-255`, or `nonzero`; or red, green, blue."""


def _as_entry_lists(value: Any) -> Any:
    """Turn the value of each class into a tuple of entries; a list of three numbers is one colour."""
    if not isinstance(value, Mapping):
        return value
    return {name: _entries(entries) for name, entries in value.items()}


def _entries(value: Any) -> tuple[Entry, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    entries = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in items)
    if isinstance(value, list | tuple) and _is_colour(entries):
        return (entries,)
    for entry in entries:
        match = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
        is_range = entry == NONZERO or (match is not None and int(match[1]) <= int(match[2]))
        if not (is_range or type(entry) is int or _is_colour(entry)):
            raise ValueError(f"expected a number, a range such as 1-255, nonzero, or [red, green, blue], got {entry!r}")
    return entries


def _is_colour(value: Any) -> TypeGuard[Colour]:
    return isinstance(value, tuple) and len(value) == 3 and all(type(each) is int for each in value)


def _check_classes(values: dict[str, tuple[Entry, ...]]) -> dict[str, tuple[Entry, ...]]:
    if len(values.keys() - {IGNORE}) < 2:
        raise ValueError("expected at least two classes, for example {background: 0, nucleus: [1, 2], ignore: 255}")
    counts = Counter(entry for entries in values.values() for entry in set(entries))
    if twice := [entry for entry, count in counts.items() if count > 1]:
        raise ValueError(f"{_format_entry(twice[0])} is used for two classes; use it for one")
    return values


MaskValues = Annotated[dict[str, tuple[Entry, ...]], BeforeValidator(_as_entry_lists), AfterValidator(_check_classes)]
"""The mask values of each class, and of `ignore`."""


@dataclass(frozen=True)
class MaskMapping:
    """Maps mask values to classes. Numbers apply to grey masks and palettes, colours to all others."""

    values: Mapping[str, tuple[Entry, ...]]
    configured: bool = False
    """Whether the mapping comes from the configuration; otherwise it is a default."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the mapping, but the background first."""
        return tuple(sorted((name for name in self.values if name != IGNORE), key=lambda name: name != BACKGROUND))

    @property
    def has_colours(self) -> bool:
        """Whether lists of three are colours: as numbers, they would repeat a number or share one between classes."""
        numbers = Counter(number for entries in self.values.values() for entry in entries for number in _numbers(entry))
        return any(isinstance(entry, tuple) for entries in self.values.values() for entry in entries) and (
            max(numbers.values()) > 1
        )

    @property
    def has_only_ranges(self) -> bool:
        """Whether every entry is a range, so that small errors of a grey level do not change its class."""
        entries = [entry for entries in self.values.values() for entry in entries]
        return all(isinstance(entry, str) and _RANGE.fullmatch(entry) for entry in entries)

    def class_of(self, value: int, colour: bool) -> str | None:
        """Return the class of a grey level, a palette index or a colour 0xRRGGBB; None if it has none.

        Single values take precedence over ranges, and ranges over `nonzero`.
        """
        for matches in (self._is_value, _is_in_range):
            for name, entries in self.values.items():
                if any(matches(entry, value, colour) for entry in entries):
                    return name
        return next((name for name, entries in self.values.items() if value and NONZERO in entries), None)

    def _is_value(self, entry: Entry, value: int, colour: bool) -> bool:
        if isinstance(entry, tuple):
            grey_numbers = not colour and not self.has_colours
            return value in entry if grey_numbers else _code(entry) == (value if colour else value * _GREY)
        return isinstance(entry, int) and value == (entry * _GREY if colour else entry)


def _is_in_range(entry: Entry, value: int, colour: bool) -> bool:
    match = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
    if match is None or (colour and value % _GREY):
        return False
    return int(match[1]) <= (value // _GREY if colour else value) <= int(match[2])


def _numbers(entry: Entry) -> tuple[int, ...]:
    return entry if isinstance(entry, tuple) else (entry,) if isinstance(entry, int) else ()


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def format_values(values: Iterable[int], colour: bool, limit: int = 5) -> str:
    """Write grey levels, or colours as [red, green, blue]; only the first few."""
    ordered = sorted(values)
    texts = [_format_entry(((v >> 16) & 255, (v >> 8) & 255, v & 255) if colour else v) for v in ordered[:limit]]
    return ", ".join(texts) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")


def _format_entry(entry: Entry) -> str:
    return str(list(entry)) if isinstance(entry, tuple) else str(entry)
