"""``auxilium env``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from auxilium_rl.cli.common import DEFAULT_ADDRESS, EXIT, Address, fail

if TYPE_CHECKING:
    from auxilium_rl.simulator.server import EnvironmentServer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Serve, attach and examine simulators."""


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
    while not stopping.wait(1.0):  # a signal that comes just before the wait does not end it
        pass
    server.stop(0.5)


@app.command()
def attach(
    env_id: Annotated[str, typer.Argument(help="Gymnasium id, such as CartPole-v1.")],
    experiment: Annotated[str, typer.Argument(help="Whose run trains on it: --env attached:<experiment>.")],
    lanes: Annotated[int, typer.Option(min=1, max=1024, help="Environments that are brought.")] = 1,
    token: Annotated[str, typer.Option(envvar="ATTACH_TOKEN", help="What the server wants to see.")] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Dial out to a server with a Gymnasium environment, until its run has ended."""
    from gymnasium.error import Error

    from auxilium_rl.simulator import AttachedEnv, AttachError

    try:
        env = AttachedEnv(env_id, address, experiment, lanes=lanes, token=token)
    except (Error, ImportError, ValueError) as error:
        fail(f"{env_id}: {error}", EXIT.USAGE)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: env.stop())

    def tell() -> None:
        env.attached.wait()
        typer.echo(f"attached to '{experiment}' at {address} with {lanes} lanes of {env_id}")

    threading.Thread(target=tell, daemon=True).start()
    try:
        env.run()
    except AttachError as error:
        fail(str(error), EXIT.FAILED)


@app.command()
def check(
    simulator: Annotated[str, typer.Argument(help="host:port of a simulator that speaks simulation.v2.")],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for each request.")] = 30.0,
) -> None:
    """Examine a simulator: what is wrong, and what to do. Ends with 0, 5 for warnings, 1 for errors."""
    from rich.console import Console

    from auxilium_rl.core.errors import EnvironmentLost
    from auxilium_rl.infra.logging import configure_logging
    from auxilium_rl.remote.doctor import ERROR, WARNING, examine

    configure_logging("WARNING")
    console, worst = Console(), set()
    colours = {"ok": "green", "skipped": "dim", "warning": "yellow", "error": "bold red"}
    try:
        for finding in examine(simulator, timeout):
            worst.add(finding.severity)
            console.print(f"[{colours[finding.severity]}]{finding.severity:8}[/] {finding.check:15}", end=" ")
            console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
    except EnvironmentLost as error:
        fail(error.message, EXIT.UNREACHABLE)
    raise typer.Exit(EXIT.FAILED if ERROR in worst else EXIT.WARNINGS if WARNING in worst else EXIT.OK)


@app.command()
def bench(
    simulator: Annotated[str, typer.Argument(help="host:port of a simulator that speaks simulation.v2.")],
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each number of lanes is measured.")] = 1.0,
    timesteps: Annotated[int, typer.Option(min=64, help="Length of the training that is measured.")] = 4096,
) -> None:
    """Measure a simulator: lanes by transport, and where the time of training on it goes."""
    from rich.console import Console
    from rich.table import Table

    from auxilium_rl.core.errors import SimulatorError
    from auxilium_rl.infra.logging import configure_logging
    from auxilium_rl.remote.timing import rates

    configure_logging("WARNING")
    console = Console()
    table = Table("transport", "lanes", "lane-steps/s", "p50 ms", "simulator", title=f"{simulator}")
    try:
        for rate in rates(simulator, seconds):
            steps, p50 = f"{rate.lane_steps_per_second:,.0f}", f"{rate.p50_ms:.3f}"
            table.add_row(rate.transport, str(rate.lanes), steps, p50, f"{rate.simulator_share:.0%}")
    except SimulatorError as error:
        fail(error.message, EXIT.UNREACHABLE)
    console.print(table)
    command = [sys.executable, "-m", "auxilium_rl.remote.profile", simulator, str(timesteps)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        fail(f"training on it failed: {ended.stderr.strip().splitlines()[-1]}", EXIT.FAILED)
    shares = json.loads(ended.stdout.splitlines()[-1])
    done, parts = shares.pop("timesteps"), Table("part", "seconds", "share", title="PPO on all lanes")
    total = sum(shares.values())
    for name, spent in shares.items():
        parts.add_row(name, f"{spent:.2f}", f"{spent / total:.0%}")
    console.print(parts)
    console.print(f"{done} timesteps in {total:.2f} s: {done / total:,.0f} steps/s")


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
