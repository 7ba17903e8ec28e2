"""``auxilium gc``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, connected, fail

__all__ = ["collect"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def collect(
    older_than: Annotated[str, typer.Option(help="Only runs that ended as long ago: 30d, 12h, 90m.")] = "",
    keep_last: Annotated[int, typer.Option(help="Newest ended runs that stay of each experiment.")] = 0,
    keep_best: Annotated[int, typer.Option(help="Best ended runs that stay of each experiment.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing, only say what would go.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Delete files that belong to no run and, with one of the first three options, ended runs."""
    with connected(address) as client:
        removed = client.collect_garbage(
            older_than=_seconds(older_than), keep_last=keep_last, keep_best=keep_best, dry_run=dry_run
        )
    for found in removed:
        what = f"run {found.run_id}" if found.kind == "run" else f"{found.kind} {found.path}"
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {what}: {found.bytes / 1e6:.1f} MB, {found.why}")
    total = sum(found.bytes for found in removed)
    typer.echo(f"{len(removed)} {'would go' if dry_run else 'gone'}, {total / 1e6:.1f} MB")


def _seconds(text: str) -> float:
    if not text:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        fail(f"--older-than {text}: a number followed by s, m, h or d is accepted", EXIT.USAGE)
    return float(match[1]) * _UNITS[match[2]]
