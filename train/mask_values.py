"""What the values in mask files mean: numbers, ranges of numbers or colours, by class. Loads without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

from pydantic import AfterValidator, BeforeValidator

IGNORE = "ignore"
"""In place of a class: these pixels are not judged."""
BACKGROUND = "background"
NONZERO = "nonzero"
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_GREY = 0x010101

Colour = tuple[int, int, int]
Entry = int | str | Colour
"""A number; a range such as `1-255`, or `nonzero`; or red, green, blue."""


def _listed(value: Any) -> Any:
    """Each class with a list of entries; a list of three numbers is one entry."""
    if not isinstance(value, Mapping):
        return value
    return {name: _entries(entries) for name, entries in value.items()}


def _entries(value: Any) -> tuple[Entry, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    whole = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in listed)
    if isinstance(value, list | tuple) and _is_colour(whole):
        return (whole,)
    for entry in whole:
        found = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
        is_range = entry == NONZERO or (found is not None and int(found[1]) <= int(found[2]))
        if not (is_range or type(entry) is int or _is_colour(entry)):
            raise ValueError(f"expected a number, a range such as 1-255, nonzero, or [red, green, blue], got {entry!r}")
    return whole


def _is_colour(value: Any) -> TypeGuard[Colour]:
    return isinstance(value, tuple) and len(value) == 3 and all(type(each) is int for each in value)


def _checked(values: dict[str, tuple[Entry, ...]]) -> dict[str, tuple[Entry, ...]]:
    if len(values.keys() - {IGNORE}) < 2:
        raise ValueError("expected at least two classes, for example {background: 0, nucleus: [1, 2], ignore: 255}")
    counts = Counter(entry for entries in values.values() for entry in set(entries))
    if twice := [entry for entry, count in counts.items() if count > 1]:
        raise ValueError(f"{_in_words(twice[0])} stands for two classes; give it to one")
    return values


MaskValues = Annotated[dict[str, tuple[Entry, ...]], BeforeValidator(_listed), AfterValidator(_checked)]
"""By class, or `ignore`, the values that stand for it."""


@dataclass(frozen=True)
class Meaning:
    """Classes by value. Numbers count in grey masks and palettes, colours in all others."""

    values: Mapping[str, tuple[Entry, ...]]
    configured: bool = False
    """Whether the configuration says so; else it is a usual one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order they are named, the background first."""
        return tuple(sorted((name for name in self.values if name != IGNORE), key=lambda name: name != BACKGROUND))

    @property
    def has_colours(self) -> bool:
        """Whether a list of three is a colour: as numbers, it would repeat one or share one with another class."""
        numbers = Counter(number for entries in self.values.values() for entry in entries for number in _numbers(entry))
        return any(isinstance(entry, tuple) for entries in self.values.values() for entry in entries) and (
            max(numbers.values()) > 1
        )

    @property
    def has_ranges_alone(self) -> bool:
        """Whether every entry is a range, so that a level that is a little off keeps its class."""
        entries = [entry for entries in self.values.values() for entry in entries]
        return all(isinstance(entry, str) and _RANGE.fullmatch(entry) for entry in entries)

    def name(self, value: int, colour: bool) -> str | None:
        """The class of a grey level or palette index, or of a colour 0xRRGGBB; None for one that has none.

        What is named itself goes before ranges, and those before `nonzero`.
        """
        for matches in (self._is, _is_in, _is_rest):
            for name, entries in self.values.items():
                if any(matches(entry, value, colour) for entry in entries):
                    return name
        return None

    def _is(self, entry: Entry, value: int, colour: bool) -> bool:
        if isinstance(entry, tuple):
            grey_numbers = not colour and not self.has_colours
            return value in entry if grey_numbers else _code(entry) == (value if colour else value * _GREY)
        return isinstance(entry, int) and value == (entry * _GREY if colour else entry)


def _is_in(entry: Entry, value: int, colour: bool) -> bool:
    found = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
    if found is None or (colour and value % _GREY):
        return False
    return int(found[1]) <= (value // _GREY if colour else value) <= int(found[2])


def _is_rest(entry: Entry, value: int, colour: bool) -> bool:
    return entry == NONZERO and value != 0


def _numbers(entry: Entry) -> tuple[int, ...]:
    return entry if isinstance(entry, tuple) else (entry,) if isinstance(entry, int) else ()


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def in_words(values: Iterable[int], colour: bool, most: int = 5) -> str:
    """Grey levels, or colours as [red, green, blue], the first few."""
    listed = sorted(values)
    shown = [_in_words(((v >> 16) & 255, (v >> 8) & 255, v & 255) if colour else v) for v in listed[:most]]
    return ", ".join(shown) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _in_words(entry: Entry) -> str:
    return str(list(entry)) if isinstance(entry, tuple) else str(entry)
