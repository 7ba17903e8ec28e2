"""``auxilium env``."""

from __future__ import annotations

import shlex
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from auxilium_rl.cli.common import EXIT, fail

if TYPE_CHECKING:
    from auxilium_rl.client.environment_server import EnvironmentServer

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
    names = gym_ids.split(";") if gym_ids else [f"lane-{number}" for number in range(lanes)]
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server, bound = _started(env_id, names, host, port)
    address = f"{host}:{bound}"
    shape = f"--observation-dim {server.observation_dim} --action-dim {server.action_dim}"
    typer.echo(f"simulator of {env_id} at {address}")
    typer.echo(f"gym ids {';'.join(names)}  observation_dim {server.observation_dim}  action_dim {server.action_dim}")
    typer.echo(
        f"train on it: auxilium train ppo --steps 50000 --env grpc://{address.replace('0.0.0.0:', '127.0.0.1:')} "
        f"--gym-ids {shlex.quote(';'.join(names))} {shape}"
    )
    stopping.wait()
    server.stop(0.5)


def _started(env_id: str, names: list[str], host: str, port: int) -> tuple[EnvironmentServer, int]:
    """A server that answers, and its port; what is wrong becomes a message."""
    from gymnasium.error import Error, UnregisteredEnv

    from auxilium_rl.client.environment_server import EnvironmentServer

    try:
        server = EnvironmentServer(env_id, names, host=host, port=port)
        return server, server.start()
    except UnregisteredEnv as error:
        fail(f"'{env_id}' is not an environment id of Gymnasium: {error}", EXIT.USAGE)
    except (Error, ImportError, ValueError) as error:
        fail(f"{env_id}: {error}", EXIT.USAGE)
    except OSError as error:
        fail(str(error), EXIT.FAILED)
