"""``auxilium doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, fail

__all__ = ["doctor"]


def doctor(
    address: Address = DEFAULT_ADDRESS,
    no_server: Annotated[bool, typer.Option("--no-server", help="Do not ask the server.")] = False,
) -> None:
    """Say what of this machine and these settings works: folders, disk, database, server.

    Reads the same environment and settings file as `auxilium serve`; run it where the server runs.
    """
    from pydantic import ValidationError

    from auxilium_rl.infra.config import Settings, setting_errors
    from auxilium_rl.infra.diagnosis import diagnose

    try:
        settings = Settings()
    except (ValidationError, ValueError) as error:
        fail(f"the settings are wrong: {setting_errors(error)}", EXIT.USAGE)
    findings = [(found.level, found.part, found.text) for found in diagnose(settings)]
    if not no_server:
        findings.append(_server(address))
    for level, part, text in findings:
        typer.echo(f"{level:<8} {part:<18} {text}")
    levels = {level for level, _, _ in findings}
    raise typer.Exit(EXIT.FAILED if "error" in levels else EXIT.WARNINGS if "warning" in levels else EXIT.OK)


def _server(address: str) -> tuple[str, str, str]:
    from auxilium_rl.client import Client, ClientError

    with Client(address, connect_timeout=2.0) as client:
        try:
            state = client.health("readiness")
        except ClientError as error:
            return "error", "server", str(error)
    level = "ok" if state == "SERVING" else "error"
    return level, "server", f"{address} is {state}" + ("" if level == "ok" else "; its log says why (not_ready)")
