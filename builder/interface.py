"""The inputs and outputs of a model, and how two descriptions of them differ."""

from __future__ import annotations

from tritonkit.errors import ArtifactError
from tritonkit.spec import ModelSpec, TensorSpec

Interface = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs, without their batch axis."""


def interface_of(spec: ModelSpec) -> Interface:
    """The interface of a model with this spec."""
    return (spec.input,), spec.outputs


def describe_difference(actual: Interface, expected: Interface, source: str) -> str | None:
    """The difference in words, such as `has …; its spec says …`; None where both are equal, order included."""
    return None if actual == expected else f"has {_interface_text(actual)}; {source} {_interface_text(expected)}"


def check_interface(spec: ModelSpec, interface: Interface) -> None:
    """Raise ArtifactError where an artifact has other inputs or outputs than its spec."""
    if found := describe_difference(interface, interface_of(spec), "its spec says"):
        raise ArtifactError(f"{spec.name}: the artifact {found}", code="artifact.interface")


def _interface_text(interface: Interface) -> str:
    inputs, outputs = (", ".join(map(str, side)) or "nothing" for side in interface)
    return f"{inputs} -> {outputs}"
