"""Acting under load: many callers, several policies, a run that trains beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from generated.auxilium.v1 import policies_pb2 as pb
from tests.e2e.harness import Server, running

CALLERS = 64
ROWS = 50


class Asked:
    """One policy, observations for it, and the right answers to them."""

    def __init__(self, server: Server, name: str, rows: Any) -> None:
        policy = server.client.policy(name)
        answers = np.asarray(policy.act_many(rows))
        dtype = "<i8" if answers.dtype.kind == "i" else "<f4"
        self.name, self.rows, self.dtype = name, rows, dtype
        self.answers = answers.astype(dtype).reshape(len(rows), -1)

    def request(self, number: int, count: int) -> pb.ActRequest:
        slab = np.ascontiguousarray(self.rows[number : number + count], np.float32).tobytes()
        return pb.ActRequest(policy=self.name, count=count, observations=pb.Rows(slabs=[slab]))

    def is_right(self, answer: pb.ActResponse, number: int, count: int) -> bool:
        got = np.frombuffer(answer.actions.slabs[0], self.dtype).reshape(count, -1)
        return bool(np.allclose(got, self.answers[number : number + count], atol=1e-5))


def _trained(server: Server) -> list[Asked]:
    rng = np.random.default_rng(0)
    tiny: dict[str, Any] = {"policy_kwargs": {"net_arch": [32]}}
    for name, algorithm, env, steps, more in (
        ("cart", "ppo", "gym:CartPole-v1", 512, {"n_steps": 256}),
        ("acrobot", "dqn", "gym:Acrobot-v1", 300, {"learning_starts": 50, **tiny}),
        ("pendulum", "sac", "gym:Pendulum-v1", 120, {"learning_starts": 50, **tiny}),
    ):
        run = server.client.train(algorithm, env=env, total_timesteps=steps, policy_name=name, hyperparameters=more)
        run.wait(timeout=60)
    sizes = {"cart": 4, "acrobot": 6, "pendulum": 3}
    return [Asked(server, name, rng.uniform(-1, 1, (ROWS, size)).astype(np.float32)) for name, size in sizes.items()]


def test_many_callers_and_several_policies(
    tmp_path: Path, pytestconfig: pytest.Config, promise: Callable[..., None]
) -> None:
    seconds = 60.0 if pytestconfig.getoption("--long") else 6.0
    with running(tmp_path / "data", max_concurrent_runs=1) as server:
        asked = _trained(server)
        training = server.client.train("ppo", env="gym:CartPole-v1", total_timesteps=10**9)
        end, wrong, counts = time.monotonic() + seconds, [], [0] * CALLERS
        memory = psutil.Process(server.process.pid).memory_info
        seen: list[int] = []

        def call(caller: int) -> None:
            rng = np.random.default_rng(caller)
            act = server.client.policies_stub.Act
            while time.monotonic() < end:
                mine, count = asked[int(rng.integers(len(asked)))], int(rng.integers(1, 9))
                number = int(rng.integers(0, ROWS - count))
                try:
                    answer = act(mine.request(number, count), timeout=30)
                except Exception as error:
                    wrong.append(f"{mine.name}: {error}")
                    return
                if not mine.is_right(answer, number, count):
                    wrong.append(f"{mine.name}: {answer}")
                counts[caller] += 1
                if counts[caller] == 20 and caller == 0:
                    seen.append(memory().rss)

        callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        growth = memory().rss / seen[0] - 1
        assert training.status().timesteps_done > 0
        training.stop(immediate=True)
    assert wrong == []
    assert min(counts) > 0
    assert growth <= 0.1
    promise(
        f"{CALLERS} callers x {len(asked)} policies for {seconds:g} s, a run training: errors, wrong answers, memory",
        "0, 0, <= +10 %",
        f"0, 0 of {sum(counts)}, {growth:+.1%}",
    )
