"""``auxilium act``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, connected, fail

__all__ = ["act"]


def act(
    run_id: Annotated[str, typer.Argument(help="A run, NAME, NAME@VERSION, NAME@ALIAS, or a model_output_path.")],
    observation: Annotated[list[str], typer.Argument(help="Numbers, a JSON list, or - for lines on standard input.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Ask a policy for an action."""
    from auxilium_rl.client import Run

    with connected(address) as client:
        run = Run(client, run_id)
        lines = sys.stdin if observation == ["-"] else [" ".join(observation)]
        for line in lines:
            if line.strip():
                typer.echo(run.act(_numbers(line)))


def _numbers(text: str) -> list[float]:
    try:
        values = json.loads(text) if text.lstrip().startswith("[") else text.replace(",", " ").split()
        return [float(value) for value in values]
    except (TypeError, ValueError):
        fail(f"{text.strip()!r:.80} is not an observation; numbers or a JSON list of them are accepted", EXIT.USAGE)
