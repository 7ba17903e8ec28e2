"""``auxilium health``."""

from __future__ import annotations

from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, connected

__all__ = ["health"]


def health(
    service: Annotated[str, typer.Option(help="Service name; empty: the whole server.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Print every change until Ctrl-C.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Say whether the server is serving."""
    with connected(address) as client:
        status = client.health(service)
        for change in client.health_changes(service) if watch else (status,):
            typer.echo(change)
    raise typer.Exit(EXIT.OK if status == "SERVING" else EXIT.FAILED)
