"""`builder versions`: list, mark and delete the versions of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.console import JsonOption, print_json, reports_errors, say, table
from model.errors import InputError

if TYPE_CHECKING:
    from builder.repository.versions import Model, Version

ServersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        help="HOST:PORT of a running Triton; versions it holds are not deleted. May be given again. Default: "
        "127.0.0.1:8001 if one answers; `none` asks nobody.",
    ),
]
TlsCa = Annotated[Path | None, typer.Option("--tls-ca", help="With --url: who signed the server's certificate (PEM).")]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="With --url: the certificate to show (PEM).")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="With --url: its key (PEM).")]
_HEADER = ["version", "created", "format", "verdict", "MB", "served", "marked"]


@reports_errors
def versions(
    model: Annotated[str, typer.Argument(help="A model's name, or its folder.")],
    repository: Annotated[Path, typer.Option(help="The model repository.")] = Path("model_repository"),
    keep: Annotated[int | None, typer.Option(help="Delete all but the newest so many.")] = None,
    mark: Annotated[int | None, typer.Option(help="Keep this version whatever its age.")] = None,
    note: Annotated[str, typer.Option(help="Why it is marked.")] = "",
    unmark: Annotated[int | None, typer.Option(help="Take the mark of this version away.")] = None,
    url: ServersOption = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions of a model; mark them, or delete old ones.

    Never deleted are versions that are marked, that the version policy of config.pbtxt serves (with the policy `all`
    that is every one), or that a server at --url holds; without --url, one at 127.0.0.1:8001 if it runs.

    Examples:

    * builder versions digits

    * builder versions digits --mark 3 --note "the one of the paper"

    * builder versions digits --keep 2 --url 127.0.0.1:8001
    """
    if note and mark is None:
        raise InputError("--note: says why a version is marked; name that version with --mark")
    from builder.repository import retention
    from builder.repository import versions as published
    from builder.repository.held import Answered, servers_from

    servers = servers_from(url, tls_ca, tls_cert, tls_key)
    folder = published.find_model(model, repository)
    if mark is not None:
        published.mark(folder, mark, note)
    if unmark is not None:
        published.unmark(folder, unmark)
    held = servers.holding(folder.name) if url or keep is not None else None
    removed = None if keep is None or held is None else retention.keep_newest(folder, keep, Answered(held=held))
    found = published.model_versions(folder, held)
    if as_json:
        print_json({**found.model_dump(mode="json"), "retention": removed})
        return
    _show(found)
    if removed is not None:
        say(removed.summary())


def _show(model: Model) -> None:
    table(_HEADER, [_row(version) for version in model.versions])
    pinned = not (model.policy.startswith("latest") or model.policy == "all")
    way = f"; `builder promote {model.name} latest` follows the newest again" if pinned else ""
    say(f"{model.folder}: {len(model.versions)} versions, Triton serves {model.policy}{way}")


def _row(version: Version) -> list[str]:
    marked = "" if version.mark is None else version.mark.note or "yes"
    return [
        str(version.version),
        f"{version.created:%Y-%m-%d %H:%M}" if version.created else "",
        " ".join(filter(None, (version.format, version.precision))),
        version.verdict,
        f"{version.bytes / 1e6:.1f}",
        ", ".join(filter(None, ("policy" if version.served else "", "loaded" if version.loaded else ""))),
        marked,
    ]
