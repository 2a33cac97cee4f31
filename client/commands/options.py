"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[str, typer.Option(help="HOST:PORT of Triton's gRPC port, or http://HOST:PORT.")]
