"""``auxilium experience``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, JsonOutput, as_json, connected, fail

if TYPE_CHECKING:
    from auxilium_rl.agent.datasets import Exported

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
Form = Literal["parquet", "minari", "rlds"]
RunId = Annotated[str, typer.Argument(help="Id of a run on agents.")]


@app.callback()
def _group() -> None:
    """What agents pushed: as Parquet, Minari or RLDS, and back."""


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
    out: Annotated[Path, typer.Option(help="What is written: a file (parquet), a folder (rlds); minari: in which.")],
    form: Annotated[Form, typer.Option("--format", help="One row a step, or the format of a library.")] = "parquet",
    dataset_id: Annotated[str | None, typer.Option(help="Of a Minari dataset.", show_default="auxilium/RUN-v0")] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write all that is stored of a run to a Parquet file, or as a Minari or RLDS dataset."""
    from auxilium_rl.agent.datasets import export_experience, export_minari, export_rlds

    if dataset_id is not None and form != "minari":
        fail(f"--dataset-id {dataset_id}: only datasets of --format minari have one", EXIT.USAGE)
    with connected(address) as client:
        if form == "parquet":
            typer.echo(f"wrote {out}: {export_experience(client, run_id, out):,} steps")
        elif form == "minari":
            _tell(export_minari(client, run_id, out, dataset_id=dataset_id))
        else:
            _tell(export_rlds(client, run_id, out))


def _tell(exported: Exported) -> None:
    typer.echo(f"wrote {exported.path}: {exported.steps:,} steps in {exported.episodes:,} episodes")
    for count, what in (
        (exported.unfinished, "had not ended; written as truncated after their last step"),
        (exported.unseen, "terminated and their last observation was not sent; a filler stands in its place"),
        (exported.headless, "without their first steps, which are not stored"),
    ):
        if count:
            typer.echo(f"  {count:,} {what}")


@app.command("import")
def import_steps(
    file: Annotated[Path, typer.Argument(help="Parquet file of `auxilium experience export`, or of the same columns.")],
    run_id: RunId,
    buffer: Annotated[str, typer.Option(help="Of the run's replay buffers; none: its own, whose steps count.")] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Give the steps of a file to an off-policy run, as one more agent."""
    from auxilium_rl.agent.datasets import import_experience

    if not file.is_file():
        fail(f"{file}: there is no such file", EXIT.USAGE)
    with connected(address) as client:
        steps = import_experience(client, run_id, file, buffer=buffer)
    typer.echo(f"{steps:,} steps were stored")
