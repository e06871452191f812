"""undiffuse schema [NAME]"""

from __future__ import annotations

import json
from typing import Annotated

import typer
from typer import Argument

from undiffuse.cli.options import opt
from undiffuse.cli.reference import group_name, markdown, settings
from undiffuse.errors import UsageError, nearest


def schema(
    name: Annotated[
        str | None, Argument(metavar="[NAME]", help="A group, such as sampling; all when left out.")
    ] = None,
    as_page: Annotated[bool, opt("Print a page for people instead.", None, "--markdown")] = False,
) -> None:
    """Print all settings with their types, ranges and meanings, as JSON schema."""
    if as_page:
        typer.echo(markdown(), nl=False)
        return
    known = {group_name(kind): kind for kind in settings()}
    if name is not None and name not in known:
        among = f"{', '.join(sorted(known))}{nearest(name, known) or '.'}"
        raise UsageError(f"there is no group of settings {name!r} among {among}")
    whole = {"$defs": settings()}
    content = whole if name is None else {"$ref": f"#/$defs/{known[name]}"} | whole
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
