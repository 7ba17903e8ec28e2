"""``auxilium runs``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, JsonOutput, as_json, connected, fail, pair

__all__ = ["app", "follow"]

app = typer.Typer(no_args_is_help=True)
RunId = Annotated[str, typer.Argument(help="Id of the run.")]
_WIDE = 1000
"""Columns of a table that goes to a file or another program: nothing is cut."""
_RECONNECT = 120.0
"""Seconds for which a run that is followed waits for a server that restarts."""


@app.command("list")
def list_runs(
    state: Annotated[list[str] | None, typer.Option(help="Only runs in this state; may come again.")] = None,
    experiment: Annotated[str, typer.Option(help="Only runs of this experiment.")] = "",
    algorithm: Annotated[str, typer.Option(help="Only runs of this algorithm.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most as many, newest first.")] = 50,
    json_output: JsonOutput = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """List runs, newest first."""
    from itertools import islice

    with connected(address) as client:
        found = client.runs(
            states=state or (), experiment_id=experiment, algorithm=algorithm, page_size=min(limit, 100)
        )
        statuses = list(islice(found, limit))
    if json_output:
        typer.echo(as_json(statuses))
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("run", min_width=32), "algorithm", "state", "timesteps", "steps/s", "experiment", box=None)
    for s in statuses:
        done = f"{s.timesteps_done:,}/{s.total_timesteps:,}"
        cells = (s.run_id, s.algorithm, s.state, done, f"{s.steps_per_second:,.0f}", s.experiment_id)
        table.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


@app.command()
def show(run_id: RunId, json_output: JsonOutput = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Show everything about a run."""
    with connected(address) as client:
        status = client.run(run_id).status()
    if json_output:
        typer.echo(as_json(status))
        return
    for name in type(status).__dataclass_fields__:
        value = getattr(status, name)
        if name == "checkpoints":
            for checkpoint in value:
                typer.echo(f"{'checkpoint':<18} {checkpoint.kind} at {checkpoint.timesteps}: {checkpoint.path}")
        elif value not in ("", (), {}, None):
            typer.echo(f"{name:<18} {value}")


@app.command()
def agents(run_id: RunId, json_output: JsonOutput = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Show the agents of a run on `agents`: who pushed what, and how far behind they are."""
    with connected(address) as client:
        found = client.run(run_id).agents()
    if json_output:
        typer.echo(as_json(found))
        return
    for one in found:
        presence = "connected" if one.connected else f"last seen {one.last_seen:%Y-%m-%d %H:%M:%S}"
        acted = f"version {one.version}, {one.version_lag} behind" if one.version >= 0 else "no step yet"
        rejected = f", {one.rejected:,} steps rejected" if one.rejected else ""
        typer.echo(
            f"{one.agent_id:<24} {one.steps:>12,} steps, {one.episodes:,} episodes, return {one.mean_return:.2f}, "
            f"{acted}{rejected}  ({presence})"
        )


@app.command()
def watch(run_id: RunId, address: Address = DEFAULT_ADDRESS) -> None:
    """Follow a run until it ends. Ctrl-C leaves the run going."""
    with connected(address) as client:
        follow(client, client.run(run_id))


@app.command()
def stop(
    run_id: RunId,
    now: Annotated[bool, typer.Option("--now", help="At the next step, not the next learning boundary.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Ask a run to stop; its model is saved."""
    with connected(address) as client:
        status = client.run(run_id).stop(immediate=now)
    typer.echo(f"run {run_id} is {status.state}" + ("" if status.is_done else "; it saves its model and stops"))


@app.command()
def pause(run_id: RunId, address: Address = DEFAULT_ADDRESS) -> None:
    """Ask a run to save itself and give its place to others."""
    with connected(address) as client:
        status = client.run(run_id).pause()
    typer.echo(f"run {run_id} is {status.state}" + ("" if status.state == "PAUSED" else "; it saves itself and pauses"))


@app.command()
def resume(run_id: RunId, address: Address = DEFAULT_ADDRESS) -> None:
    """Let a paused run go on."""
    with connected(address) as client:
        status = client.run(run_id).resume()
    typer.echo(f"run {run_id} is {status.state}")


Environment = Annotated[str, typer.Option("--env", help="Another environment; none: the same.")]
GymIds = Annotated[str, typer.Option("--gym-ids", help="Names of its lanes, with ; between (unary protocol).")]
Detach = Annotated[bool, typer.Option("--detach", help="Print the new run's id and leave.")]


@app.command()
def retry(
    run_id: RunId,
    from_start: Annotated[bool, typer.Option("--from-start", help="Not from the newest checkpoint.")] = False,
    env: Environment = "",
    gym_ids: GymIds = "",
    detach: Detach = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Try a run that failed or was stopped again, as a new one, from its newest checkpoint."""
    with connected(address) as client:
        made = client.run(run_id).retry(from_start=from_start, env=env, gym_ids=gym_ids.split(";") if gym_ids else ())
        _tell(client, made, detach)


@app.command()
def extend(
    run_id: RunId,
    steps: Annotated[int, typer.Option("--steps", help="Timesteps more.")],
    env: Environment = "",
    gym_ids: GymIds = "",
    detach: Detach = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Train longer: a new run that goes on where one ended."""
    with connected(address) as client:
        made = client.run(run_id).extend(steps, env=env, gym_ids=gym_ids.split(";") if gym_ids else ())
        _tell(client, made, detach)


@app.command()
def clone(
    run_id: RunId,
    steps: Annotated[int, typer.Option("--steps", help="Timesteps; none: as many.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable.")] = None,
    experiment: Annotated[str, typer.Option(help="Name that groups runs; none: the same.")] = "",
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="Hyperparameter that differs, as key=value.")
    ] = None,
    env: Environment = "",
    gym_ids: GymIds = "",
    output: Annotated[str, typer.Option(help="Where the model is written, as <path>.zip, on the server.")] = "",
    detach: Detach = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Begin a new run of the same algorithm with the newest weights of another."""
    with connected(address) as client:
        made = client.run(run_id).clone(
            total_timesteps=steps,
            seed=seed,
            experiment_id=experiment,
            hyperparameters=dict(pair(text) for text in parameter or ()),
            env=env,
            gym_ids=gym_ids.split(";") if gym_ids else (),
            model_output_path=output,
        )
        _tell(client, made, detach)


@app.command()
def delete(
    run_ids: Annotated[list[str], typer.Argument(help="Ids of runs that have ended.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Forget runs with their metrics, checkpoints and logs; exported models stay."""
    if not yes:
        typer.confirm(f"delete {', '.join(run_ids)}?", abort=True)
    with connected(address) as client:
        for run_id in run_ids:
            typer.echo(f"run {run_id} deleted, {client.run(run_id).delete() / 1e6:.1f} MB freed")


def _tell(client: Any, run: Any, detach: bool) -> None:
    typer.echo(f"run {run.run_id}")
    if not detach:
        follow(client, run)


def follow(client: Any, run: Any) -> None:
    """Draw a run until it ends, then say how it ended by message and exit code."""
    client.connect_timeout = _RECONNECT
    try:
        status = run.wait(progress=True, raise_on_failure=False)
    except KeyboardInterrupt:
        typer.echo(f"\nleft; the run goes on. Come back with: auxilium runs watch {run.run_id}")
        raise typer.Exit(EXIT.INTERRUPTED) from None
    if status.state == "FAILED":
        fail(f"run {run.run_id} failed: {status.error_message}\n{status.log_tail}".rstrip(), EXIT.FAILED)
    typer.echo(f"run {run.run_id} {status.state} after {status.timesteps_done:,} timesteps")
    if status.exported_path:
        typer.echo(f"model {status.exported_path}")
