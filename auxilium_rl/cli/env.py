"""``auxilium env``."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from auxilium_rl.cli.common import EXIT, fail

if TYPE_CHECKING:
    from auxilium_rl.simulator.server import EnvironmentServer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Serve environments."""


@app.command()
def serve(
    env_id: Annotated[str, typer.Argument(help="Gymnasium id, such as CartPole-v1.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 50062,
    lanes: Annotated[int, typer.Option(min=1, max=1024, help="Environments that are served.")] = 1,
    gym_ids: Annotated[
        str, typer.Option(help="Their names in the unary protocol, with ; between; otherwise lane-0, lane-1, ….")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    fast_lane: Annotated[
        str, typer.Option(help="Offer this socket too: unix:///path or tcp://127.0.0.1:port (0: a free one).")
    ] = "",
    lease: Annotated[float, typer.Option(min=0.0, help="Seconds an episode outlives a lost connection.")] = 60.0,
) -> None:
    """Serve a Gymnasium environment as a simulator, until Ctrl-C."""
    names = gym_ids.split(";") if gym_ids else [f"lane-{number}" for number in range(lanes)]
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server, bound = _started(env_id, names, host, port, fast_lane, lease)
    address = f"{host}:{bound}"
    typer.echo(f"simulator of {env_id} at {address}, {len(names)} lanes")
    if server.observation_dim:
        typer.echo(
            f"gym ids {';'.join(names)}  observation_dim {server.observation_dim}  action_dim {server.action_dim}"
        )
    typer.echo(
        f"train on it: auxilium train ppo --steps 50000 --env grpc://{address.replace('0.0.0.0:', '127.0.0.1:')}"
    )
    stopping.wait()
    server.stop(0.5)


def _started(
    env_id: str, names: list[str], host: str, port: int, fast_lane: str, lease: float
) -> tuple[EnvironmentServer, int]:
    """A server that answers, and its port; what is wrong becomes a message."""
    from gymnasium.error import Error, UnregisteredEnv

    from auxilium_rl.simulator.server import EnvironmentServer

    try:
        server = EnvironmentServer(env_id, names, host=host, port=port, fast_lane=fast_lane, lease=lease)
        return server, server.start()
    except UnregisteredEnv as error:
        fail(f"'{env_id}' is not an environment id of Gymnasium: {error}", EXIT.USAGE)
    except (Error, ImportError, ValueError) as error:
        fail(f"{env_id}: {error}", EXIT.USAGE)
    except OSError as error:
        fail(str(error), EXIT.FAILED)
