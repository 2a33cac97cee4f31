"""The command `builder versions`: list, mark and delete the versions of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from tritonkit.errors import InputError
from tritonkit.export_options import RetentionOptions
from tritonkit.options import options_of
from tritonkit.system.console import JsonOption, print_json, print_text, reports_errors, table


@reports_errors
@options_of(RetentionOptions)
def versions(
    options: RetentionOptions,
    model: Annotated[str, typer.Argument(help="A model's name, or its folder.")],
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
        ["version", "created", "format", "verdict", "MB", "served", "marked"],
        [
            [
                str(version.version),
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
