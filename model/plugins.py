"""What users add in Python: models, losses, readers, callbacks and tasks of their own, found by name.

A module registers things by a name; a dotted path `module:attribute` names one directly. A module is only imported
where the person at the keyboard has named it, in the environment or in the training configuration: the name that
stands in a checkpoint from someone else imports nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from model.errors import ConfigError, SpecError

Kind = Literal["model", "loss", "reader", "callback", "task", "training task"]
Thing = TypeVar("Thing", bound=Callable[..., Any])

VARIABLE = "TRITONKIT_PLUGINS"
"""Names modules to import, separated by commas."""

_registered: dict[Kind, dict[str, Callable[..., Any]]] = {}
_imported_modules: set[str] = set()


def register(kind: Kind, name: str) -> Callable[[Thing], Thing]:
    """Decorate a class or function to be found as the `name` of this kind in a configuration."""

    def decorate(thing: Thing) -> Thing:
        _registered.setdefault(kind, {})[name] = thing
        return thing

    return decorate


def plugged_in(kind: Kind) -> Mapping[str, Callable[..., Any]]:
    """What is registered of a kind, by name, the modules that the environment names among it."""
    load_plugins(filter(None, os.environ.get(VARIABLE, "").split(",")))
    return _registered.get(kind, {})


def load_plugins(modules: Iterable[str]) -> None:
    """Import modules, looked for in the working directory too. Raises ConfigError for one that cannot be."""
    for name in (module.strip() for module in modules):
        if name in _imported_modules:
            continue
        if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds text
            sys.path.append(os.getcwd())  # noqa: PTH109
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a user's module does wrong
            raise ConfigError(
                f"the plugin module {name!r} cannot be imported from {os.getcwd()}: "  # noqa: PTH109
                f"{type(error).__name__}: {error}"
            ) from error
        _imported_modules.add(name)


def find(kind: Kind, name: str) -> Callable[..., Any]:
    """The registered thing of this name, or the attribute that `module:attribute` names.

    Raises SpecError when there is none, or when nobody has named the module as a plugin.
    """
    module, colon, attribute = name.partition(":")
    known = plugged_in(kind)
    if name in known:
        return known[name]
    if not colon:
        hint = f"; registered: {', '.join(known)}" if known else ""
        raise SpecError(
            f"no {kind} is registered as {name!r}{hint}. Name its module under `plugins:`, or in {VARIABLE}"
        )
    if module not in _imported_modules:
        raise SpecError(
            f"{kind} {name}: the module {module!r} is not imported unless you say so: "
            f"name it under `plugins:` of the configuration, or in the environment: {VARIABLE}={module}"
        )
    plugin = getattr(sys.modules[module], attribute, None)
    defined_in = str(getattr(plugin, "__module__", module))
    if not callable(plugin) or defined_in.split(".")[0] != module.split(".")[0]:  # what it imports is not its own
        raise SpecError(f"{kind} {name}: the module {module!r} has no class or function {attribute!r}")
    return plugin  # type: ignore[no-any-return]
