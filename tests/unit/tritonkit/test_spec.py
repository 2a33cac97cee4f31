"""ModelSpec: invalid values, and the round trip through JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from tests.errors import raises
from tritonkit.errors import SpecError
from tritonkit.spec import SCHEMA_VERSION, Lineage, ModelSpec, TaskSpec, TensorSpec

Document = dict[str, Any]


def read(document: Document) -> ModelSpec:
    return ModelSpec.from_json(json.dumps(document), origin="pets.safetensors")


def test_spec_is_equal_when_read_back(spec: ModelSpec) -> None:
    lineage = Lineage(
        data_fingerprint="1f", config={"epochs": 3, "model": {"name": "a"}}, seed=7, metrics={"accuracy": 0.5}
    )
    changes = {"lineage": lineage, "thresholds": {"Kätzchen": 0.25}, "labels": ("Kätzchen", "犬", "b")}
    whole = spec.model_copy(update=changes)
    assert ModelSpec.from_json(whole.to_json(), origin="here") == whole


def test_spec_is_equal_when_it_has_heads_and_is_read_back(spec: ModelSpec) -> None:
    heads = {
        "kind": TaskSpec(task="multilabel", labels=("cat", "dog"), thresholds={"dog": 0.7}),
        "vector": TaskSpec(task="embedding", embedding_size=4),
    }
    whole = spec.model_copy(update={"task": "heads", "labels": (), "heads": heads})
    back = ModelSpec.from_json(whole.to_json(), origin="here")
    assert back == whole
    assert list(back.heads) == ["kind", "vector"]
    assert dict(back.summary_rows())["labels kind"] == "2: cat, dog"


def test_spec_is_read_when_it_was_written_by_the_first_version(document: Document) -> None:
    for field in ("embedding_size", "probability", "heads"):
        del document[field]
    assert read(document | {"schema_version": 1}).labels == ("cat", "dog", "bird")


@pytest.mark.parametrize("label", ["", "two\nlines", "two\rlines"])
def test_spec_is_refused_when_a_label_does_not_fit_on_a_line(document: Document, label: str) -> None:
    with raises(SpecError, "spec.fields", "  labels: "):
        read(document | {"labels": ["cat", label, "bird"]})


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [({"cow": 0.5, "ant": 0.5}, "ant, cow"), ({"cat": math.nan}, "finite number")],
)
def test_spec_is_refused_when_a_threshold_is_of_no_label_or_no_number(
    document: Document, thresholds: dict[str, float], why: str
) -> None:
    with raises(SpecError, "spec.fields", why):
        read(document | {"thresholds": thresholds})


def test_spec_is_refused_when_a_head_has_a_problem_inside(document: Document) -> None:
    head = {"task": "multilabel", "labels": ["old"], "thresholds": {"new": 0.5}}
    with raises(SpecError, "spec.fields") as caught:
        read(document | {"heads": {"traits": head}})
    assert re.search(r"heads\.traits: .*labels: new", str(caught.value))


def test_spec_is_one_line_when_written(spec: ModelSpec) -> None:
    assert "\n" not in spec.to_json()
    assert json.loads(spec.to_json())["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_spec_keeps_a_metric_when_it_is_not_finite(spec: ModelSpec, value: float) -> None:
    diverged = spec.model_copy(update={"lineage": Lineage(metrics={"val_loss": value})})
    text = diverged.to_json()
    json.loads(text, parse_constant=pytest.fail)
    back = ModelSpec.from_json(text, origin="here").lineage.metrics
    assert back["val_loss"] == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("part", ["", "input", "architecture", "preprocess", "normalize", "lineage"])
def test_spec_is_refused_when_a_field_is_unknown(document: Document, part: str) -> None:
    inside = document[part] if part else document
    inside["colour"] = "red"
    with raises(SpecError, "spec.fields") as caught:
        read(document)
    assert re.search(r"^pets\.safetensors: .*\n.*colour.*'red'", str(caught.value))


@pytest.mark.parametrize("field", ["name", "task", "architecture", "input", "outputs", "preprocess", "normalize"])
def test_spec_is_refused_when_a_field_is_missing(document: Document, field: str) -> None:
    del document[field]
    with raises(SpecError, "spec.fields", f"{field}: Field required"):
        read(document)


def test_spec_tells_to_upgrade_when_its_version_is_newer(document: Document) -> None:
    document |= {"schema_version": SCHEMA_VERSION + 1, "field_of_the_future": 1}
    with raises(SpecError, "spec.newer_version", f"version {SCHEMA_VERSION + 1}") as caught:
        read(document)
    assert "field_of_the_future" not in str(caught.value)


@pytest.mark.parametrize("version", [0, -1, "2", None, 1.5])
def test_spec_is_refused_when_its_version_is_none_of_ours(document: Document, version: object) -> None:
    with raises(SpecError, "spec.fields", "schema_version"):
        read(document | {"schema_version": version})


def test_spec_lists_all_problems_when_there_are_several(document: Document) -> None:
    document |= {"name": "a/b", "task": "divine it", "labels": [1], "surplus": True}
    with pytest.raises(SpecError) as caught:
        read(document)
    lines = [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert sorted(lines) == ["labels.0", "name", "surplus", "task"]


@pytest.mark.parametrize(
    "text",
    ["", "not json", "{", "[" * 100_000, '{"schema_version": ' + "1" * 5000 + "}", "null", "[]", '"spec"', "3"],
    ids=["empty", "text", "cut", "deep", "long-number", "null", "list", "string", "number"],
)
def test_spec_names_the_file_when_the_text_is_no_spec(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_json(text, origin="pets.safetensors")
    assert caught.value.code == ("spec.fields" if text in ("null", "[]", '"spec"', "3") else "spec.not_json")
    assert str(caught.value).startswith("pets.safetensors: ")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "../a", "/a", "a b", "a\n", "a\0", "-a", "é", "a" * 129]
)
def test_spec_is_refused_when_its_name_is_no_safe_folder(document: Document, name: str) -> None:
    with raises(SpecError, "spec.fields", "name: "):
        read(document | {"name": name})


@pytest.mark.parametrize("name", ["a", "7", "cats.v2", "Cats-and_dogs", "a" * 128])
def test_spec_is_read_when_its_name_is_a_safe_folder(document: Document, name: str) -> None:
    assert read(document | {"name": name}).name == name


def test_spec_differs_in_its_name_alone_when_renamed(spec: ModelSpec) -> None:
    assert spec.renamed("zoo").name == "zoo"
    assert spec.renamed("zoo").renamed(spec.name) == spec


@pytest.mark.parametrize("name", ["../zoo", ""])
def test_spec_is_not_renamed_when_the_name_is_no_safe_folder(spec: ModelSpec, name: str) -> None:
    with raises(SpecError, "spec.name") as caught:
        spec.renamed(name)
    assert str(caught.value).startswith(f"'{name}' ")


@pytest.mark.parametrize("field", ["name", "labels", "lineage"])
def test_spec_stays_as_it_is_when_someone_assigns(spec: ModelSpec, field: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, field, getattr(spec, field))


def test_spec_is_refused_when_the_input_is_not_what_preprocessing_makes(document: Document) -> None:
    document["input"]["shape"] = [64, 32, 3]
    with raises(SpecError, "spec.fields") as caught:
        read(document)
    assert re.search(r"image UINT8 \[N, 64, 32, 3\].* \[N, 32, 32, 3\]", str(caught.value))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("normalize", "mean", [math.nan, 0, 0]),
        ("normalize", "std", [math.inf, 1, 1]),
        ("normalize", "std", [0, 1, 1]),
        ("normalize", "std", [1, 1]),
        ("input", "dtype", "FLOAT"),
        ("input", "shape", [32, 0, 3]),
        ("preprocess", "fit", "zoom"),
        ("architecture", "library", "pickle"),
    ],
)
def test_spec_is_refused_when_a_value_is_bad(document: Document, part: str, field: str, value: object) -> None:
    document[part][field] = value
    with raises(SpecError, "spec.fields", f"{part}.{field}"):
        read(document)


def test_tensor_reads_like_a_signature_when_printed() -> None:
    assert str(TensorSpec(name="image", dtype="UINT8", shape=(4, 5, 3))) == "image UINT8 [N, 4, 5, 3]"
