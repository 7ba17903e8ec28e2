"""``auxilium train``."""

from __future__ import annotations

from typing import Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, Address, connected, pair
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
    max_memory_mb: Annotated[int, typer.Option(help="MiB of memory above which the run fails.")] = 0,
    max_seconds: Annotated[float, typer.Option(help="Time after which the run is stopped, its model saved.")] = 0.0,
    policy_name: Annotated[str, typer.Option(help="Policy whose versions the run publishes; none: the run's id.")] = "",
    publish_checkpoints: Annotated[
        bool, typer.Option("--publish-checkpoints", help="Every checkpoint becomes a version.")
    ] = False,
    eval_freq: Annotated[int, typer.Option(help="Timesteps between evaluations while it trains.")] = 0,
    eval_episodes: Annotated[int, typer.Option(help="Episodes of each.")] = 0,
    eval_env: Annotated[str, typer.Option(help="Where; none: another one like that of training.")] = "",
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
            hyperparameters=dict(pair(text) for text in parameter or ()),
            model_output_path=output,
            checkpoint_freq=checkpoint_freq,
            max_memory_mb=max_memory_mb,
            max_seconds=max_seconds,
            policy_name=policy_name,
            publish_checkpoints=publish_checkpoints,
            eval_freq=eval_freq,
            eval_episodes=eval_episodes,
            eval_env=eval_env,
        )
        typer.echo(f"run {run.run_id}")
        if not detach:
            follow(client, run)
