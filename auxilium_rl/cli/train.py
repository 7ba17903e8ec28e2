"""``auxilium train``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, connected, fail
from auxilium_rl.cli.runs import follow

__all__ = ["train"]


def train(
    algorithm: Annotated[str, typer.Argument(help="ppo, a2c or dqn; see `auxilium algorithms`.")],
    steps: Annotated[int, typer.Option("--steps", help="Timesteps over all lanes.")],
    env: Annotated[str, typer.Option(help="gym:CartPole-v1, grpc://host:port or fake; none: the server's own.")] = "",
    gym_ids: Annotated[
        str, typer.Option(help="Names of the lanes, with ; between, for simulators of the unary protocol.")
    ] = "",
    lanes: Annotated[int, typer.Option(help="Number of lanes.")] = 0,
    observation_dim: Annotated[int, typer.Option(help="Length of an observation, with --gym-ids.")] = 0,
    action_dim: Annotated[int, typer.Option(help="Number of actions, with --gym-ids.")] = 0,
    max_steps: Annotated[int, typer.Option(help="Steps after which an episode is truncated.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Name that groups runs.")] = None,
    output: Annotated[str, typer.Option(help="Where the model is written, as <path>.zip, on the server.")] = "",
    checkpoint_freq: Annotated[int, typer.Option(help="Timesteps between checkpoints.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="Hyperparameter, as key=value.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and leave.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Train a policy and follow it. Ctrl-C leaves the run going."""
    names = gym_ids.split(";") if gym_ids else []
    with connected(address) as client:
        run = client.train(
            algorithm,
            env=env,
            total_timesteps=steps,
            experiment_id=experiment,
            gym_ids=names,
            lanes=lanes,
            observation_dim=observation_dim,
            action_dim=action_dim,
            max_steps=max_steps,
            seed=seed,
            hyperparameters=dict(_pair(text) for text in parameter or ()),
            model_output_path=output,
            checkpoint_freq=checkpoint_freq,
        )
        typer.echo(f"run {run.run_id}")
        if not detach:
            follow(client, run)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        fail(f"-p {text}: key=value is accepted", EXIT.USAGE)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
