"""The settings that labelled data are read and measured with. Loads without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from tritonkit.evaluation.samples.mask_values import BINARY, IGNORE, MaskValues
from tritonkit.options import InputPath
from tritonkit.spec import Frozen, Name
from tritonkit.tasks.segmentation import IGNORED


class Section(Frozen):
    """Base class of configuration sections. Rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)


class TaskConfig(Section):
    """The task of a model or of one head."""

    task: Name = "multiclass"
    """multiclass, multilabel, embedding, segmentation, heads, or a plugin's."""
    column: str | None = None
    """The column of a CSV or JSON that holds the ground truth; default: the task's usual column, or the head's name."""
    thresholds: dict[str, FiniteFloat] = {}
    """By label, the lowest probability that counts as yes (multilabel, segmentation with two labels)."""
    embedding_size: PositiveInt = 128
    """Length of an embedding vector."""


Operation = Literal["rotation", "flip"]


class AuxiliaryConfig(TaskConfig):
    """One of several heads, which may be an auxiliary one."""

    operation: Operation | None = None
    """With `task: augmentation`: what the head recognises in images that the training changes: rotation (0, 90, 180,
    270 degrees) or flip (none, horizontal, vertical). Such a head needs no column; `builder export` drops it."""


class LabelledData(Section):
    """Labelled images, and how to read them."""

    path: InputPath
    """A folder of class folders; a CSV or JSON; or a folder with one of these for each part: `train`, `val`, `test`,
    and `base`. Each may lie at an address, such as s3://bucket/folder."""
    reader: str | None = None
    """folder, csv, json, jsonl, or a plugin's; default: chosen from the type of `path`."""
    columns: dict[Literal["image", "label", "labels", "mask"], str] = {}
    """Column names of your table, where they differ from ours, such as {image: filename, label: class}."""
    masks: InputPath | None = None
    """Segmentation: the folder of masks, if `path` is a folder of images. Files are paired by name; extensions may
    differ."""
    mask_suffix: str = ""
    """Segmentation: the suffix that mask names add to image names, such as _mask."""
    mask_values: MaskValues | None = None
    """Segmentation: by class, the values in masks: a number, a list, a range or a colour, such as
    {background: 0, nucleus: 1-255, ignore: 65535}; `nonzero` is every other value except 0. Pixels with an `ignore`
    value count neither for the loss nor for metrics."""
    ignore_index: Annotated[int, Field(ge=0, lt=2**16)] | None = None
    """Segmentation: the value in masks that counts neither for the loss nor for metrics; default: 255, where the
    masks hold class numbers. The same as `ignore` in mask_values."""
    labels: tuple[str, ...] | None = None
    """Segmentation: the names of the class numbers in the masks, from 0; default: background, foreground.
    Multilabel: the columns that are labels; default: all but the image column."""
    split_column: str | None = None
    """The column that assigns each image to train, val or test."""
    group: str | None = None
    """A column, such as patient: images with an equal value stay in one part."""

    @model_validator(mode="after")
    def _check_ignore_index(self) -> LabelledData:
        index = self.ignore_index
        if index is None:
            return self
        for label, values in (self.mask_values or self._class_numbers()).items():
            if index in values and label != IGNORE:
                raise ValueError(
                    f"ignore_index {index} is the value of {label}; set data.mask_values, which names the values of "
                    "each class and of `ignore`"
                )
        return self

    def all_mask_values(self) -> MaskValues | None:
        """Return `mask_values` with `ignore_index` among the ignored values; None if neither is set."""
        if self.ignore_index is None:
            return self.mask_values
        values = self.mask_values or self._class_numbers() | {IGNORE: (IGNORED,)}
        return {**values, IGNORE: tuple(dict.fromkeys((*values.get(IGNORE, ()), self.ignore_index)))}

    def _class_numbers(self) -> MaskValues:
        return {label: (number,) for number, label in enumerate(self.labels or BINARY)}
