"""`builder promote` and `builder rollback`: which version of a model Triton serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tritonkit.errors import InputError
from tritonkit.export_options import RepositoryOptions
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors

if TYPE_CHECKING:
    from builder.repository.promote import Promotion

ModelArgument = Annotated[str, typer.Argument(help="A model's name, or its folder.")]
LATEST = "latest"


class PromotionOptions(RepositoryOptions):
    """What `promote` and `rollback` have in common."""

    force: bool = False
    """Serve a version although its verdict failed."""


@reports_errors
@options_of(PromotionOptions)
def promote(
    options: PromotionOptions,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="A version's number, or `latest`: the newest, now and later.")],
    as_json: JsonOption = False,
) -> None:
    """Pin the version of a model that Triton serves, or follow the newest one again.

    The pin is written into config.pbtxt, with the labels and preprocessing of the version. Load it into a running
    server with `server reload`.

    Examples:

    * builder promote digits 3

    * builder promote digits latest
    """
    if version != LATEST and not (version.isdecimal() and int(version)):
        raise InputError(
            f"{version}: expected the number of a version, or {LATEST}; list them with: builder versions {model}",
            code="option.version",
        )
    from builder.repository import promote as promotion
    from builder.repository.versions import find_model

    number = None if version == LATEST else int(version)
    _print_promotion(promotion.promote(find_model(model, options.repository), number, options.force), as_json)


@reports_errors
@options_of(PromotionOptions)
def rollback(
    options: PromotionOptions,
    model: ModelArgument,
    as_json: JsonOption = False,
) -> None:
    """Serve the newest older version whose verdict passed.

    Example: builder rollback digits
    """
    from builder.repository import promote as promotion
    from builder.repository.versions import find_model

    _print_promotion(promotion.rollback(find_model(model, options.repository), options.force), as_json)


def _print_promotion(promoted: Promotion, as_json: bool) -> None:
    command = f"server reload {' '.join(promoted.changed)}"
    if as_json:
        print_json({**promoted.model_dump(mode="json"), "next": command})
    else:
        print_text(f"{promoted.summary()}\nLoad it into a running server with: {command}")
