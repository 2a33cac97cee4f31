"""Example configurations with comments from the schema, and the JSON schema for editors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from train.config.loading import Config
from tritonkit.errors import InputError

_SHARED: dict[str, Any] = {"model": {"name": "resnet18"}, "image": {"size": 224}}
EXAMPLES: dict[str, dict[str, Any]] = {
    "multiclass": {
        "name": "flowers",
        "task": "multiclass",
        "data": {"path": "flowers"},
        **_SHARED,
        "loss": [{"name": "cross_entropy", "label_smoothing": 0.1}],
    },
    "multilabel": {"name": "scenes", "task": "multilabel", "data": {"path": "scenes.csv"}, **_SHARED, "loss": "bce"},
    "embedding": {
        "name": "products",
        "task": "embedding",
        "data": {"path": "products", "per_class": 4},
        **_SHARED,
        "loss": [{"name": "TripletMarginLoss", "margin": 0.1, "miner": {"name": "MultiSimilarityMiner"}}],
    },
    "segmentation": {
        "name": "people",
        "task": "segmentation",
        "data": {"path": "people/images", "masks": "people/masks"},
        "model": {"name": "Unet", "encoder": "resnet34"},
        "image": {"size": 256, "fit": "pad"},
        "loss": [{"name": "dice"}, {"name": "cross_entropy", "weight": 0.5}],
    },
    "heads": {
        "name": "clothes",
        "task": "heads",
        "heads": {"kind": {"task": "multiclass"}, "colour": {"task": "multiclass", "weight": 0.5}},
        "data": {"path": "clothes.csv"},
        **_SHARED,
    },
}
"""By task, the keys that a configuration must set; all others have defaults."""
_OPTIONAL_SECTIONS: dict[str, dict[str, Any]] = {
    "export": {"onnx": "fp32"},
    "quantization": {"activations": "uint8"},
    "search": {"parameters": {"optimizer.lr": {"low": 0.0001, "high": 0.1, "log": True}}},
}
"""Values shown, commented out, for sections that are absent by default."""
HEADER = """\
# A training configuration for tritonkit, task {task}. Keys left out take the value shown.
# yaml-language-server: $schema=tritonkit.schema.json
# (for editors: train config --schema > tritonkit.schema.json)

"""


def example_config(task: str) -> str:
    """Write a commented YAML for a task. Raises InputError for an unknown task."""
    if task not in EXAMPLES:
        raise InputError(
            f"--task {task}: unknown task; choose one of {', '.join(EXAMPLES)}", code="option.unknown_task"
        )
    values = EXAMPLES[task]
    config = Config.model_validate(values)
    lines = _section(Config, config.model_dump(mode="json"), values, indent="")
    return HEADER.format(task=task) + "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    return Config.model_json_schema()


def _section(section: type[BaseModel], values: dict[str, Any], required: dict[str, Any], indent: str) -> Iterator[str]:
    """Write the lines of a section: required keys first, then the others; keys without a value are comments."""
    for name in dict.fromkeys([*required, *section.model_fields]):
        info = section.model_fields[name]
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _comment(inspect.cleandoc(annotation.__doc__ or ""), indent)
            yield f"{indent}{name}:"
            yield from _section(annotation, values[name], required.get(name, {}), indent + "  ")
        elif values.get(name) is None and (optional := _section_of(annotation)) is not None:
            yield from _comment(info.description or "", indent)
            example = optional.model_validate(_OPTIONAL_SECTIONS.get(name, {})).model_dump(mode="json")
            yield f"{indent}# {name}:"
            yield from _comment("\n".join(_section(optional, example, _OPTIONAL_SECTIONS.get(name, {}), "  ")), indent)
        else:
            yield from _comment(info.description or "", indent)
            yield from _value(
                name, values.get(name), indent, active=name in required or _has_value(info, values.get(name))
            )


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class in an annotation `Section | None`."""
    sections = [each for each in get_args(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    return sections[0] if sections else None


def _value(name: str, value: Any, indent: str, active: bool) -> Iterator[str]:
    text = yaml.safe_dump(_brief(value), sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000)
    stripped = text.removesuffix("...\n").rstrip()  # the document end that YAML writes after a single scalar
    yield f"{indent}{'' if active else '# '}{name}: {stripped}"


def _brief(value: Any) -> Any:
    """Remove empty values, and move `arguments` back to the level of `name`."""
    if isinstance(value, dict) and "arguments" in value:
        value = {**value, **value["arguments"], "arguments": None}
    if isinstance(value, dict):
        section = {key: _brief(each) for key, each in value.items() if each not in (None, {}, [])}
        return section["name"] if section.keys() == {"name"} else section
    return [_brief(each) for each in value] if isinstance(value, list) else value


def _has_value(info: FieldInfo, value: Any) -> bool:
    return value not in (None, {}, []) and info.default is not PydanticUndefined


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"{indent}# {line}".rstrip()
