"""``auxilium experience``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, JsonOutput, as_json, connected, fail

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
RunId = Annotated[str, typer.Argument(help="Id of a run on agents.")]


@app.callback()
def _group() -> None:
    """What agents pushed: as Parquet, and back."""


@app.command()
def stats(run_id: RunId, json_output: JsonOutput = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Say what is stored of a run."""
    from auxilium_rl.agent.datasets import summary

    with connected(address) as client:
        found = summary(client, run_id)
    if json_output:
        typer.echo(as_json(found))
        return
    typer.echo(
        f"{found.steps:,} steps of {found.agents} agents, {found.episodes:,} episodes, return {found.mean_return:.2f}, "
        f"length {found.mean_length:.1f}, versions {found.versions[0]} to {found.versions[1]}"
    )


@app.command()
def export(
    run_id: RunId,
    out: Annotated[Path, typer.Option(help="Parquet file that is written.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write all that is stored of a run to a Parquet file, one row a step."""
    from auxilium_rl.agent.datasets import export_experience

    if not out.absolute().parent.is_dir():
        fail(f"--out {out}: there is no folder {out.absolute().parent}", EXIT.USAGE)
    with connected(address) as client:
        steps = export_experience(client, run_id, out)
    typer.echo(f"wrote {out}: {steps:,} steps")


@app.command("import")
def import_steps(
    file: Annotated[Path, typer.Argument(help="Parquet file of `auxilium experience export`, or of the same columns.")],
    run_id: RunId,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Give the steps of a file to an off-policy run, as one more agent."""
    from auxilium_rl.agent.datasets import import_experience

    if not file.is_file():
        fail(f"{file}: there is no such file", EXIT.USAGE)
    with connected(address) as client:
        steps = import_experience(client, run_id, file)
    typer.echo(f"{steps:,} steps were stored")
