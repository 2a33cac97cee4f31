"""The page about a self-labelling, where a person decides on doubtful labels and exports the decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.autolabel.result import AutolabelResult
from tritonkit import pages
from tritonkit.images.preprocess import ImageError, decode_image, read_picture
from tritonkit.pages.contact_sheet import thumbnail
from tritonkit.system.files import atomic_write

_TEMPLATE = "review.html.jinja"


@dataclass(frozen=True)
class Doubtful:
    """A picture to decide on."""

    path: str
    label: str
    """The label to confirm or to change."""
    note: str
    is_used: bool
    """Whether a model learns this label if nobody decides."""

    @property
    def image(self) -> str | None:
        """A thumbnail as a data URL; None if the picture cannot be read any more."""
        try:
            return thumbnail(decode_image(read_picture(Path(self.path))))
        except ImageError:
            return None


def write_page(
    path: Path, name: str, result: AutolabelResult, groups: Mapping[str, Sequence[Doubtful]], labels: Sequence[str]
) -> None:
    """Write the page, one file that works offline. groups: the pictures to decide on, by heading."""
    shown = "\n".join(each.path for group in groups.values() for each in group)
    page = (
        pages.templates(Path(__file__).parent)
        .get_template(_TEMPLATE)
        .render(
            name=name,
            result=result,
            groups={heading: group for heading, group in groups.items() if group},
            labels=labels,
            # The browser keeps decisions under this key; another set of pictures has another.
            key=f"autolabel-{hashlib.sha256(shown.encode()).hexdigest()[:16]}",
        )
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
