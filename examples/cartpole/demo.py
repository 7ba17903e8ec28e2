"""The main job, end to end: a server, a simulator in another process, PPO over gRPC, and the trained policy at play.

It speaks the ``policy_trainer`` contract alone, as a client in any language would. Run it with ``make demo``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import gymnasium
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from auxilium_rl.client import Client
from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
LANES = 4
GOAL = 450.0
HYPERPARAMETERS = {
    "n_steps": "256",
    "batch_size": "256",
    "n_epochs": "20",
    "learning_rate": "lin_1e-3",
    "gae_lambda": "0.8",
}
HYPERPARAMETERS |= {"gamma": "0.98", "clip_range": "lin_0.2"}
console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run the demonstration; 0 when the policy reached its goal."""
    options = _options()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        simulator = stack.enter_context(
            _process("simulator", out, "env", "serve", "CartPole-v1", "--port", "0", f"--lanes={LANES}")
        )
        server = stack.enter_context(
            _process(
                "server",
                out,
                "serve",
                "--port",
                "0",
                SIMULATION_GRPC_HOST=simulator,
                DATA_DIR=out / "data",
                LOG_FORMAT="json",
            )
        )
        console.print(f"simulator  {simulator}  CartPole-v1, {LANES} lanes\nserver     {server}")
        channel = stack.enter_context(grpc.insecure_channel(server))
        trainer: Any = policy_trainer_pb2_grpc.PolicyTrainerServiceStub(channel)
        console.print(f"health     {_health(channel)}")
        run_id = _start(trainer, options.timesteps)
        status = _poll(trainer, run_id, options.timesteps)
        mean = _play(trainer, run_id, options.episodes)
        picture = _learning_curve(server, run_id, out)
    console.print(f"\nmodel           {out / 'data' / 'models' / 'cartpole' / 'ppo.zip'}")
    console.print(f"last checkpoint {status.last_checkpoint_path}")
    console.print(f"learning curve  {picture}")
    console.print(f"everything else {out / 'data'}  (database, logs, TensorBoard)")
    reached = mean >= options.goal
    verdict = "reached" if reached else "missed"
    console.print(f"\nmean return of {options.episodes} episodes: {mean:.1f} ({verdict} {options.goal:g})")
    return 0 if reached else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=80_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--goal", type=float, default=GOAL)
    parser.add_argument("--out", type=Path, default=ROOT / "demo-output")
    return parser.parse_args()


@contextmanager
def _process(name: str, out: Path, *arguments: str, **env: object) -> Iterator[str]:
    """A process of ours and the address that it says it listens on; ended in the end."""
    log = out / f"{name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "auxilium_rl", *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, **{key: str(value) for key, value in env.items()}, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(timeout=40)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r'(?:at |"address": ")(127\.0\.0\.1:\d+)', log.read_text())
        if found:
            return found.group(1)
        time.sleep(0.05)
    raise SystemExit(f"{log.stem} did not come up:\n{log.read_text()}")


def _health(channel: grpc.Channel) -> str:
    deadline = time.monotonic() + 10
    while True:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        name = str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
        if name == "SERVING" or time.monotonic() > deadline:
            return name
        time.sleep(0.05)


def _start(trainer: Any, timesteps: int) -> str:
    spec = pb.EnvironmentSpec(observation_dim=4, action_dim=2, max_steps=500)
    agreed = trainer.NegotiateEnvironment(
        pb.NegotiateEnvironmentRequest(experiment_id="cartpole", spec=spec), timeout=30
    )
    negotiation = pb.NegotiateEnvironmentRequest(experiment_id="cartpole", spec=spec)
    agreed = trainer.NegotiateEnvironment(negotiation, timeout=30)
    if not agreed.accepted:
        raise SystemExit(agreed.message)
    gym_ids = ";".join(f"lane-{number}" for number in range(LANES))
    request = pb.TrainingRequest(
        experiment_id="cartpole",
        total_timesteps=timesteps,
        seed=42,
        hyperparameters={**HYPERPARAMETERS, "gym_ids": gym_ids, "n_envs": str(LANES)},
        model_output_path="cartpole/ppo",
    )
    answer = trainer.StartTrainingPPO(request, timeout=30)
    if answer.status != pb.STARTED:
        raise SystemExit(answer.message)
    console.print(f"run        {answer.run_id}  {answer.message}")
    return str(answer.run_id)


def _poll(trainer: Any, run_id: str, timesteps: int) -> pb.StatusResponse:
    columns = (BarColumn(), TextColumn("{task.completed:>7,.0f}/{task.total:,.0f} timesteps"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=timesteps)
        told = 0
        while True:
            status = trainer.GetTrainingStatus(pb.StatusRequest(run_id=run_id), timeout=10)
            bar.update(task, completed=min(status.timesteps_done, timesteps))
            if not console.is_terminal and status.timesteps_done - told >= timesteps // 10:
                told = status.timesteps_done
                console.print(f"           {told:>7,}/{timesteps:,} timesteps")
            if status.is_done:
                break
            time.sleep(0.2)
    if status.error_message:
        raise SystemExit(f"the run failed: {status.error_message}")
    return status


def _play(trainer: Any, run_id: str, episodes: int) -> float:
    """Let the policy play through ``Act``; the mean return."""
    env = gymnasium.make("CartPole-v1")
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=1000 + episode)
        ended = False
        while not ended:
            answer = trainer.Act(pb.ActRequest(run_id=run_id, observation=observation), timeout=10)
            if not answer.success:
                raise SystemExit(answer.error_message)
            observation, reward, terminated, truncated, _ = env.step(answer.action)
            total += float(reward)
            ended = terminated or truncated
    env.close()
    return total / episodes


def _learning_curve(server: str, run_id: str, out: Path) -> Path:
    """Draw the mean episode reward over timesteps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with Client(server) as client:
        points = client.run(run_id).metrics("rollout/ep_rew_mean")
    figure, axes = plt.subplots(figsize=(8, 4.5))
    axes.plot([p.step for p in points], [p.value for p in points], marker="o", markersize=3)
    axes.set(title="PPO on CartPole-v1, simulator in another process", xlabel="timesteps", ylabel="mean episode reward")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    picture = out / "learning-curve.png"
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return picture


if __name__ == "__main__":
    sys.exit(main())
