"""The commands for the versions of a model: `versions` lists, marks and deletes, `promote` and `rollback` serve one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder.semantic import is_semantic_version
from tritonkit.errors import InputError
from tritonkit.export_options import RepositoryOptions, RetentionOptions
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table

if TYPE_CHECKING:
    from builder.repository.promote import Promotion

ModelArgument = Annotated[str, typer.Argument(help="A model's name, or its folder.")]
LATEST = "latest"


@reports_errors
@options_of(RetentionOptions)
def versions(
    options: RetentionOptions,
    model: ModelArgument,
    mark: Annotated[int | None, typer.Option(help="Never delete this version.")] = None,
    note: Annotated[str, typer.Option(help="Why the version is marked.")] = "",
    unmark: Annotated[int | None, typer.Option(help="Remove the mark of this version.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions of a model; mark them, or delete old ones.

    Versions are never deleted if they are marked, or if the version policy of config.pbtxt serves them (the policy
    `all` serves every version).

    Examples:

    * builder versions digits

    * builder versions digits --mark 3 --note "the one of the paper"

    * builder versions digits --keep 2
    """
    if note and mark is None:
        raise InputError("--note: says why a version is marked; add --mark VERSION", code="option.note_unused")
    from builder.repository import retention
    from builder.repository import versions as published

    folder = published.find_model(model, options.repository)
    if mark is not None:
        published.mark(folder, mark, note)
    if unmark is not None:
        published.unmark(folder, unmark)
    removed = None if options.keep is None else retention.keep_newest(folder, options.keep)
    listing = published.model_versions(folder)
    if as_json:
        print_json({**listing.model_dump(mode="json"), "retention": removed})
        return
    table(
        ["version", "semantic", "created", "format", "verdict", "MB", "served", "marked"],
        [
            [
                str(version.version),
                " ".join(version.semantic),
                f"{version.created:%Y-%m-%d %H:%M}" if version.created else "",
                " ".join(filter(None, (version.format, version.precision))),
                version.verdict,
                f"{version.bytes / 1e6:.1f}",
                "yes" if version.served else "",
                "" if version.mark is None else version.mark.note or "yes",
            ]
            for version in listing.versions
        ],
    )
    pinned = not (listing.policy.startswith("latest") or listing.policy == "all")
    hint = f"; to follow the newest again: builder promote {listing.name} latest" if pinned else ""
    print_text(f"{listing.folder}: {len(listing.versions)} versions, Triton serves {listing.policy}{hint}")
    if removed is not None:
        print_text(removed.summary())


class PromotionOptions(RepositoryOptions):
    """What `promote` and `rollback` have in common."""

    force: bool = False
    """Serve a version although its verdict failed."""


@reports_errors
@options_of(PromotionOptions)
def promote(
    options: PromotionOptions,
    model: ModelArgument,
    version: Annotated[
        str, typer.Argument(help="A version's number, its semantic version, or `latest`: the newest, now and later.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Pin the version of a model that Triton serves, or follow the newest one again.

    The pin is written into config.pbtxt, with the labels and preprocessing of the version. Load it into a running
    server with `server reload`.

    Examples:

    * builder promote digits 3

    * builder promote digits 1.2.0

    * builder promote digits latest
    """
    if version != LATEST and not (version.isdecimal() and int(version)) and not is_semantic_version(version):
        raise InputError(
            f"{version}: expected the number of a version, a semantic version such as 1.2.0, or {LATEST}; list them "
            f"with: builder versions {model}",
            code="option.version",
        )
    from builder.repository import promote as promotion
    from builder.repository.semantic_versions import SemanticVersions
    from builder.repository.versions import find_model

    folder = find_model(model, options.repository)
    number: int | None
    if is_semantic_version(version):
        number = SemanticVersions.of(folder).number_of(version, folder)
    else:
        number = None if version == LATEST else int(version)
    _print_promotion(promotion.promote(folder, number, options.force), as_json)


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
