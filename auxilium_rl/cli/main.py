"""``auxilium``: the command."""

from __future__ import annotations

from typing import Annotated

import typer

from auxilium_rl import __version__
from auxilium_rl.cli import algorithms, doctor, env, experience, gc, health, policies, policy, runs, serve, train

__all__ = ["app", "main"]

_EPILOG = (
    "Exit codes: 0 done; 1 the run failed or the service is not serving; 2 wrong usage or value; "
    "3 no server answered; 4 no such run or policy; 130 Ctrl-C (a run that was watched goes on)."
)

app = typer.Typer(
    name="auxilium",
    help="Reinforcement-learning training as a service.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)
app.command("train")(train.train)
app.add_typer(runs.app, name="runs", help="List, show, watch, pause, stop, retry, extend, clone and delete runs.")
app.add_typer(policies.app, name="policies", help="List, show, name, evaluate, compare, export and delete policies.")
app.command("algorithms")(algorithms.algorithms)
app.command("act", context_settings={"ignore_unknown_options": True})(policy.act)  # negative numbers
app.command("health")(health.health)
app.command("gc")(gc.collect)
app.command("doctor")(doctor.doctor)
app.add_typer(experience.app, name="experience", help="Say what agents pushed, export it, import it.")
app.add_typer(env.app, name="env", help="Serve environments.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"auxilium {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Reinforcement-learning training as a service."""


def main() -> None:
    """Run the command."""
    app()
