"""Experience as Parquet, and back into a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from gymnasium import spaces

from auxilium_rl.agent import Agent
from auxilium_rl.agent.datasets import export_experience, import_experience, summary
from auxilium_rl.client import Agents, InvalidArgument
from auxilium_rl.wire.chunks import ChunkCodec
from tests.e2e.harness import Server
from tests.e2e.test_agents import rewards_of, stored
from tests.e2e.test_cli import auxilium

OBSERVATION = spaces.Dict([("z", spaces.Box(-1, 1, (2,), np.float32)), ("a", spaces.Discrete(3, start=1))])
ACTION = spaces.Discrete(2)
SMALL: dict[str, Any] = {"learning_starts": 10**6, "buffer_size": 100}


def run_of(server: Server, algorithm: str = "dqn", observation: Any = OBSERVATION) -> Any:
    return server.client.train(
        algorithm,
        env="agents",
        total_timesteps=10**6,
        agents=Agents(observation, ACTION),
        hyperparameters=SMALL if algorithm == "dqn" else None,
    )


@pytest.fixture
def pushed(server: Server) -> Any:
    """A run with two agents' experience: 30 steps in 3 episodes each, the last one cut off."""
    run = run_of(server)
    for name in ("one", "two"):
        with Agent(OBSERVATION, ACTION, address=server.client.address, run_id=run.run_id, agent_id=name) as agent:
            for episode in range(3):
                for step in range(10):
                    seen = {"z": [step / 10, episode / 10], "a": 1 + step % 3}
                    agent.act(seen).reward(step)
                agent.end(terminated=episode < 2, truncated=episode == 2, final_obs={"z": [1, 1], "a": 1})
    yield run
    run.stop(immediate=True)
    run.wait(timeout=30)


def test_there_and_back(server: Server, pushed: Any, tmp_path: Path) -> None:
    file = tmp_path / "steps.parquet"
    told = auxilium(server, "experience", "stats", pushed.run_id)
    assert told.stdout.startswith("60 steps of 2 agents, 6 episodes, return 45.00, length 10.0, versions 0 to"), told
    done = auxilium(server, "experience", "export", pushed.run_id, "--out", str(file))
    assert done.stdout.strip() == f"wrote {file}: 60 steps", done.stderr
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert len(rows) == 60
    first = rows[0]
    assert (first["agent"], first["step"], first["reward"], first["terminated"]) == ("one", 0, 0.0, False)
    assert first["observation"] == {"z": pytest.approx([0, 0]), "a": [0]}  # counted from 0
    assert first["next_observation"] == {"z": pytest.approx([0.1, 0]), "a": [1]}
    assert first["log_prob"] is None  # a value-based policy has none
    assert [row["terminated"] for row in rows[:30]].count(True) == 2
    assert rows[29]["truncated"]
    assert rows[29]["next_observation"] == {"z": [1, 1], "a": [0]}
    other = run_of(server)
    imported = auxilium(server, "experience", "import", str(file), other.run_id)
    assert imported.stdout.strip() == "60 steps were stored", imported.stderr
    codec = ChunkCodec(OBSERVATION, ACTION, 0)
    back = rewards_of(stored(server, other.run_id, codec))
    assert sorted(back.values()) == sorted(rewards_of(stored(server, pushed.run_id, codec)).values())
    again = summary(server.client, other.run_id)
    assert (again.agents, again.steps, again.episodes, again.mean_return) == (1, 60, 6, 45.0)
    other.stop(immediate=True)


def test_a_transform(server: Server, pushed: Any, tmp_path: Path) -> None:
    file = tmp_path / "steps.parquet"
    assert export_experience(server.client, pushed.run_id, file) == 60

    def doubled(row: dict[str, Any]) -> dict[str, Any] | None:
        return {**row, "reward": 2 * row["reward"]} if row["agent"] == "one" else None

    other = run_of(server)
    assert import_experience(server.client, other.run_id, file, transform=doubled) == 30
    assert summary(server.client, other.run_id).mean_return == 90.0
    with pytest.raises(InvalidArgument, match="observation"):
        import_experience(
            server.client,
            other.run_id,
            file,
            transform=lambda row: {**row, "observation": {"z": [np.nan, 0], "a": [0]}},
        )
    other.stop(immediate=True)


def test_refusals(server: Server, pushed: Any, tmp_path: Path) -> None:
    file = tmp_path / "steps.parquet"
    export_experience(server.client, pushed.run_id, file)
    other, on_policy = run_of(server, observation=spaces.Discrete(3)), run_of(server, "ppo")
    with pytest.raises(InvalidArgument, match="those of another contract"):
        import_experience(server.client, other.run_id, file)
    with pytest.raises(InvalidArgument, match="learns on-policy"):
        import_experience(server.client, on_policy.run_id, file)
    junk = tmp_path / "junk"
    junk.write_bytes(b"PAR1 is not all")
    with pytest.raises(InvalidArgument, match="junk"):
        import_experience(server.client, other.run_id, junk)
    for run in (other, on_policy):
        run.stop(immediate=True)
    alone = server.client.train("ppo", env="gym:CartPole-v1", total_timesteps=64, hyperparameters={"n_steps": 64})
    for arguments, code, why in (
        (("stats", alone.run_id), 2, "agents pushed nothing"),
        (("stats", "0" * 32), 4, "not found"),
        (("export", alone.run_id, "--out", str(tmp_path / "no" / "x")), 2, "there is no folder"),
        (("import", str(tmp_path / "none"), alone.run_id), 2, "there is no such file"),
    ):
        done = auxilium(server, "experience", *arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert why in done.stderr, (arguments, done.stderr)
    assert not list(tmp_path.glob(".*.part"))
