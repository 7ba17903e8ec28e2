"""``auxilium env``."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from auxilium_rl.cli.common import EXIT, fail

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Serve environments."""


@app.command()
def serve(
    env_id: Annotated[str, typer.Argument(help="Gymnasium id, such as CartPole-v1.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 50062,
    lanes: Annotated[int, typer.Option(min=1, max=1024, help="Gyms that are served: lane-0, lane-1, …")] = 1,
    gym_ids: Annotated[str, typer.Option(help="Names instead of lane-0, lane-1, …, with ; between.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a Gymnasium environment as a simulator, until Ctrl-C."""
    import gymnasium

    from auxilium_rl.client.environment_server import EnvironmentServer, UnsupportedEnvironment

    names = gym_ids.split(";") if gym_ids else [f"lane-{number}" for number in range(lanes)]
    if "" in names or len(set(names)) != len(names):
        fail(f"--gym-ids {gym_ids}: unique names that are not empty are accepted", EXIT.USAGE)
    if env_id not in gymnasium.registry:
        fail(f"'{env_id}' is not an environment id of Gymnasium {gymnasium.__version__}", EXIT.USAGE)
    try:
        server = EnvironmentServer(env_id, names, host=host, port=port)
        bound = server.start()
    except (UnsupportedEnvironment, gymnasium.error.Error) as error:
        fail(f"{env_id}: {error}", EXIT.USAGE)
    except OSError as error:
        fail(str(error), EXIT.FAILED)
    typer.echo(f"simulator of {env_id} at {host}:{bound}")
    typer.echo(f"gym ids {';'.join(names)}  observation_dim {server.observation_dim}  action_dim {server.action_dim}")
    typer.echo(
        f"train on it: auxilium train ppo --steps 50000 --env grpc://{host}:{bound} --gym-ids '{';'.join(names)}' "
        f"--observation-dim {server.observation_dim} --action-dim {server.action_dim}"
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    stopping.wait()
    server.stop(0.5)
