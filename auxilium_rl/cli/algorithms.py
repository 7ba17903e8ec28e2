"""``auxilium algorithms``."""

from __future__ import annotations

from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, JsonOutput, as_json, connected, fail

__all__ = ["algorithms"]


def algorithms(
    name: Annotated[str | None, typer.Argument(help="Only this algorithm.")] = None,
    json_output: JsonOutput = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Show the algorithms and what each hyperparameter means."""
    with connected(address) as client:
        found = client.algorithms()
    known = [algorithm.name for algorithm in found]
    if name is not None and name not in known:
        fail(f"no algorithm '{name}'; these are: {', '.join(known)}", EXIT.USAGE)
    chosen = [algorithm for algorithm in found if name in (None, algorithm.name)]
    if json_output:
        typer.echo(as_json(chosen))
        return
    for algorithm in chosen:
        typer.echo(f"{algorithm.name}  {algorithm.title}")
        for h in algorithm.hyperparameters:
            typer.echo(f"  {h.name:<24} {h.type:<18} {h.default!s:<10} {h.meaning} Accepted: {h.accepted}.")
