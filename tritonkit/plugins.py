"""Plugins: models, losses, readers, callbacks, tasks and formats in a user's Python modules, found by name.

A module registers plugins under a name; `module:attribute` selects one directly. A module is imported only if the user
lists it, in the environment or in the training configuration. A name in a third-party checkpoint imports nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from tritonkit.errors import ConfigError, SpecError

Kind = Literal["model", "loss", "reader", "callback", "task", "training task", "format"]
Thing = TypeVar("Thing", bound=Callable[..., Any])

VARIABLE = "TRITONKIT_PLUGINS"
"""Environment variable with modules to import, separated by commas."""

_registered: dict[Kind, dict[str, Callable[..., Any]]] = {}
_imported_modules: set[str] = set()


def register(kind: Kind, name: str) -> Callable[[Thing], Thing]:
    """Register the decorated class or function as the plugin `name` of this kind."""

    def decorate(plugin: Thing) -> Thing:
        _registered.setdefault(kind, {})[name] = plugin
        return plugin

    return decorate


def registered_plugins(kind: Kind) -> Mapping[str, Callable[..., Any]]:
    """Return the registered plugins of a kind by name, including the modules in the environment."""
    load_plugins(filter(None, os.environ.get(VARIABLE, "").split(",")))
    return _registered.get(kind, {})


def load_plugins(modules: Iterable[str]) -> None:
    """Import plugin modules, also from the working directory. Raises ConfigError if an import fails."""
    for name in (module.strip() for module in modules):
        if name in _imported_modules:
            continue
        if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path contains strings
            sys.path.append(os.getcwd())  # noqa: PTH109
        try:
            importlib.import_module(name)
        except Exception as error:  # a user's module can raise anything
            raise ConfigError(
                f"the plugin module {name!r} cannot be imported from {os.getcwd()}: "  # noqa: PTH109
                f"{type(error).__name__}: {error}",
                code="plugin.import",
            ) from error
        _imported_modules.add(name)


def find_plugin(kind: Kind, name: str) -> Callable[..., Any]:
    """Return the registered plugin of this name, or the attribute of `module:attribute`.

    Raises SpecError if it does not exist, or if its module is not listed as a plugin.
    """
    module, colon, attribute = name.partition(":")
    known = registered_plugins(kind)
    if name in known:
        return known[name]
    if not colon:
        hint = f"; registered: {', '.join(known)}" if known else ""
        raise SpecError(
            f"no {kind} is registered as {name!r}{hint}. Add its module to `plugins:`, or to {VARIABLE}",
            code="plugin.not_registered",
        )
    if module not in _imported_modules:
        raise SpecError(
            f"{kind} {name}: the module {module!r} is imported only if you list it: "
            f"add it to `plugins:` of the configuration, or set in the environment: {VARIABLE}={module}",
            code="plugin.not_listed",
        )
    plugin = getattr(sys.modules[module], attribute, None)
    defined_in = str(getattr(plugin, "__module__", module))
    if not callable(plugin) or defined_in.split(".")[0] != module.split(".")[0]:  # not what it imports from elsewhere
        raise SpecError(
            f"{kind} {name}: the module {module!r} has no class or function {attribute!r}", code="plugin.no_attribute"
        )
    return plugin  # type: ignore[no-any-return]
