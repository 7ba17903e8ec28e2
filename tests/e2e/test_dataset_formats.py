"""Experience as datasets of other libraries, which load it: what an agent saw and did is what they give."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent import Agent
from auxilium_rl.agent.datasets import export_minari, export_rlds
from auxilium_rl.client import Agents, ClientError, InvalidArgument, Run
from tests.e2e.harness import ROOT, Server
from tests.e2e.test_cli import auxilium

PYTHON = ROOT / "build" / "rlds" / "bin" / "python"
PICTURE = spaces.Box(0, 255, (40, 40), np.uint8)
SEEN = spaces.Dict(
    [
        ("z", spaces.Box(-1, 1, (2,), np.float64)),
        ("a", spaces.Discrete(3, start=1)),
        ("picture", PICTURE),
        ("many", spaces.MultiDiscrete([2, 5], start=[3, -1])),
        ("bits", spaces.MultiBinary((2, 2))),
    ]
)
DONE = spaces.Discrete(3, start=1)
NEVER: dict[str, Any] = {"n_steps": 2048, "policy_kwargs": {"net_arch": [8]}}


class Played:
    """Episodes of an agent, as it saw and did them."""

    def __init__(self, agent: Agent, observation: Any, masked: bool) -> None:
        self._agent, self._space, self._masked = agent, observation, masked
        self._space.seed(7)
        self.episodes: list[dict[str, Any]] = []

    def play(self, steps: int, name: str = "", **ends: Any) -> None:
        """An episode; ``ends`` is how, and nothing where it is left under way."""
        told: dict[str, Any] = {"seen": [], "did": [], "rewards": [], "log_probs": [], "masks": [], "name": name}
        for number in range(steps):
            seen = self._space.sample()
            mask = [True, number % 2 == 0, True] if self._masked else None
            step = self._agent.act(seen, mask=mask, episode=name)
            step.reward(number / 3)
            for key, value in zip(told, (seen, step.action, number / 3, step.log_prob, mask), strict=False):
                told[key].append(value)
        if ends:
            final = self._space.sample() if ends.pop("final", False) else None
            self._agent.end(final_obs=final, episode=name, **ends)
            told["seen"] += [] if final is None else [final]
        self.episodes.append({**told, **ends})


def pushed(server: Server, algorithm: str, observation: Any, action: Any, masked: bool) -> tuple[Run, Any]:
    """A run with four episodes: two that terminated, one that was cut, one that was left under way."""
    agents = Agents(observation, action, 3 if masked else 0)
    run = server.client.train(algorithm, env="agents", total_timesteps=10**6, agents=agents, hyperparameters=NEVER)
    settings: dict[str, Any] = {"address": server.client.address, "run_id": run.run_id, "agent_id": "one"}
    with Agent(observation, action, masked=masked, chunk_steps=4, **settings) as agent:
        played = Played(agent, observation, masked)
        played.play(3, "left under way")
        played.play(10, terminated=True)
        played.play(7, truncated=True, final=True)
        played.play(5, "another", terminated=True, final=True)
    left = played.episodes.pop(0)  # episodes come in the order of their ends
    for key in ("did", "rewards", "log_probs", "masks"):
        left[key].pop()  # what was seen after the last step is not known
    return run, [*played.episodes, left]


@pytest.fixture(scope="module")
def masked(server: Server) -> Iterator[tuple[Run, Any]]:
    run, episodes = pushed(server, "ppo", SEEN, DONE, masked=True)
    yield run, episodes
    run.stop(immediate=True)


@pytest.fixture(scope="module")
def boxes(server: Server) -> Iterator[tuple[Run, Any]]:
    """Of actions that are drawn far beyond their Box."""
    run, episodes = pushed(
        server, "ppo", spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-0.1, 0.2, (2,), np.float64), masked=False
    )
    yield run, episodes
    run.stop(immediate=True)


def same(found: Any, element: Any, space: Any) -> None:
    """Values, shapes and dtypes."""
    if isinstance(space, spaces.Dict):
        assert set(found) == set(space.spaces)
        for key, leaf in space.spaces.items():
            same(found[key], element[key], leaf)
        return
    assert found.dtype == space.dtype, (space, found.dtype)
    np.testing.assert_array_equal(found, np.asarray(element, space.dtype))


def rows(values: Any, number: int) -> Any:
    return {key: leaf[number] for key, leaf in values.items()} if isinstance(values, dict) else values[number]


WARNED = """\
  1 had not ended; written as truncated after their last step
  1 terminated and their last observation was not sent; a filler stands in its place
"""


def compare(episode: Any, expected: Any, about: Any, observation: Any, action: Any) -> None:
    """An episode of Minari and what the agent has of it."""
    count = len(expected["did"])
    assert len(episode) == count
    assert episode.terminations.tolist() == [False] * (count - 1) + [expected.get("terminated", False)]
    assert episode.truncations.tolist() == [False] * (count - 1) + [not expected.get("terminated", False)]
    assert about["unfinished"] == (not expected.get("terminated") and not expected.get("truncated"))
    assert (about["agent"], about["first_step"]) == ("one", 0)
    assert about["final_observation_seen"] == (len(expected["seen"]) == count + 1)
    for number, seen in enumerate(expected["seen"]):
        same(rows(episode.observations, number), seen, observation)
    for number in range(count):
        same(episode.actions[number], expected["did"][number], action)
    assert rows(episode.observations, count) in observation
    np.testing.assert_array_equal(episode.rewards, np.array(expected["rewards"], np.float32))
    np.testing.assert_allclose(episode.infos["log_prob"], [*expected["log_probs"], np.nan], rtol=1e-6)
    assert episode.infos["version"].tolist() == [0] * count + [-1]


def test_minari(server: Server, masked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari: Any = pytest.importorskip("minari")
    run, expected = masked
    out, name = tmp_path / "datasets", f"auxilium/{run.run_id}-v0"
    done = auxilium(server, "experience", "export", run.run_id, "--format", "minari", "--out", str(out))
    assert done.stdout == f"wrote {out / name}: 24 steps in 4 episodes\n{WARNED}", done.stderr
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    found = minari.load_dataset(name)
    assert list(minari.list_local_datasets()) == [name]
    assert (found.observation_space, found.action_space) == (SEEN, DONE)
    assert (found.total_episodes, found.total_steps, found.id) == (4, 24, name)
    assert found.storage.metadata["algorithm_name"] == "ppo"
    told = list(found.storage.get_episode_metadata(range(4)))
    for episode, expect, about in zip(found, expected, told, strict=True):
        compare(episode, expect, about, SEEN, DONE)
        assert episode.infos["mask"].tolist() == [*expect["masks"], [True] * 3]
    again = auxilium(server, "experience", "export", run.run_id, "--format", "minari", "--out", str(out))
    assert (again.returncode, again.stdout) == (2, "")
    assert f"{out / name} exists already" in again.stderr
    export_minari(server.client, run.run_id, out, dataset_id="mine-v3")
    assert sorted(minari.list_local_datasets()) == [name, "mine-v3"]


def test_minari_of_boxes(server: Server, boxes: Any, tmp_path: Path) -> None:
    minari: Any = pytest.importorskip("minari")
    run, expected = boxes
    exported = export_minari(server.client, run.run_id, tmp_path, dataset_id="boxes/some-v1")
    assert (exported.path, exported.steps, exported.unseen) == (tmp_path / "boxes" / "some-v1", 24, 1)
    found = minari.MinariDataset(exported.path / "data")
    for episode, expect, about in zip(found, expected, found.storage.get_episode_metadata(range(4)), strict=True):
        compare(episode, expect, about, found.observation_space, spaces.Box(-0.1, 0.2, (2,), np.float64))
        drawn = episode.infos["drawn_action"]
        low, high = np.float32(-0.1), np.float32(0.2)
        np.testing.assert_array_equal(np.clip(drawn[:-1], low, high).astype(np.float64), episode.actions)
        assert np.isnan(drawn[-1]).all()
    assert max(np.abs(episode.infos["drawn_action"][:-1]).max() for episode in found) > 0.5


def test_refusals(server: Server, masked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    run_id = masked[0].run_id
    file = tmp_path / "file"
    file.write_text("mine")
    empty = server.client.train("ppo", env="agents", total_timesteps=64, agents=Agents(SEEN, DONE))
    for arguments, code, why in (
        ((run_id, "--format", "csv", "--out", "x"), 2, "'parquet', 'minari', 'rlds'"),
        ((run_id, "--format", "minari", "--out", str(file)), 2, "out: .*file exists already"),
        ((run_id, "--out", str(file)), 2, "out: .*file exists already"),
        ((run_id, "--format", "rlds", "--out", str(file)), 2, "out: .*file exists already"),
        ((run_id, "--format", "minari", "--out", str(tmp_path / "no" / "x")), 2, "out: .*there is no folder"),
        ((run_id, "--format", "minari", "--out", str(tmp_path), "--dataset-id", "../x-v0"), 2, "dataset_id: '../x-v0'"),
        ((run_id, "--format", "minari", "--out", str(tmp_path), "--dataset-id", "x"), 2, "dataset_id: 'x' given; NAME"),
        ((run_id, "--dataset-id", "x-v0", "--out", str(tmp_path / "x")), 2, "--dataset-id x-v0: only datasets of"),
        ((empty.run_id, "--format", "minari", "--out", str(tmp_path)), 2, "run_id: agents pushed nothing"),
        (("0" * 32, "--format", "minari", "--out", str(tmp_path)), 4, "not found"),
    ):
        done = auxilium(server, "experience", "export", *arguments, env={"COLUMNS": "300", "NO_COLOR": "1"})
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert re.search(why, done.stderr), (arguments, done.stderr)
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*") if not path.is_dir()] == ["file"]
    empty.stop(immediate=True)
    for library, export in (("minari", export_minari), ("tensorflow_datasets", export_rlds)):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ClientError, match=rf"needs {library}: pip install 'auxilium-rl\[\w+\]'"):
            export(server.client, run_id, tmp_path / "x")


def test_a_full_disk(server: Server, masked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    storage: Any = pytest.importorskip("minari.dataset._storages.hdf5_storage").HDF5Storage

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "update_episode_metadata", full)
    with pytest.raises(InvalidArgument, match="No space left on device"):
        export_minari(server.client, masked[0].run_id, tmp_path, dataset_id="x-v0")
    assert list(tmp_path.iterdir()) == []


def tensorflow(*command: str, server: Server | None = None) -> str:
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is not there; `make faults` makes it of tests/requirements-rlds.txt")
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}
    if server is not None:
        env["AUXILIUM_ADDRESS"] = server.address
    done = subprocess.run(
        [PYTHON, *command], check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_rlds(server: Server, run_id: str, out: Path) -> Any:
    """What ``auxilium experience export`` wrote there, as TensorFlow Datasets reads it."""
    export = ("-m", "auxilium_rl", "experience", "export", run_id, "--format", "rlds", "--out", str(out))
    assert tensorflow(*export, server=server) == f"wrote {out}: 24 steps in 4 episodes\n{WARNED}"
    return json.loads(tensorflow(str(Path(__file__).with_name("rlds_reader.py")), str(out)))


def values(element: Any, space: Any) -> Any:
    """An element as the reader tells it: dtype, shape and values of every leaf."""
    if isinstance(space, spaces.Dict):
        return {key: values(element[key], leaf) for key, leaf in space.spaces.items()}
    array = np.asarray(element, space.dtype)
    return [str(array.dtype), list(array.shape), array.tolist()]


def compare_steps(episode: Any, expected: Any, observation: Any, action: Any) -> None:
    """An episode of RLDS and what the agent has of it."""
    count, terminated = len(expected["did"]), expected.get("terminated", False)
    steps = episode["steps"]
    assert [step["is_first"] for step in steps] == [True] + [False] * count
    assert [step["is_last"] for step in steps] == [False] * count + [True]
    assert [step["is_terminal"] for step in steps] == [False] * count + [terminated]
    assert [step["discount"] for step in steps] == [1] * (count - 1) + [0 if terminated else 1, 0]
    assert [step["reward"] for step in steps] == [*np.array(expected["rewards"], np.float32).tolist(), 0]
    assert [step["version"] for step in steps] == [0] * count + [-1]
    log_probs = [step["log_prob"] for step in steps]
    np.testing.assert_allclose(log_probs, [*expected["log_probs"], math.nan], rtol=1e-6)
    for step, seen in zip(steps, expected["seen"], strict=False):
        assert step["observation"] == values(seen, observation)
    for step, did in zip(steps, expected["did"], strict=False):
        assert step["action"] == values(did, action)
    assert episode["unfinished"] == (not terminated and not expected.get("truncated"))
    assert (episode["agent"], episode["first_step"]) == ("one", 0)
    assert episode["final_observation_seen"] == (len(expected["seen"]) == count + 1)


@pytest.mark.long  # TensorFlow is two gigabytes
def test_rlds(server: Server, masked: Any, tmp_path: Path) -> None:
    run, expected = masked
    found = of_rlds(server, run.run_id, tmp_path / "rlds")
    for episode, expect in zip(found, expected, strict=True):
        compare_steps(episode, expect, SEEN, DONE)
        assert [step["mask"] for step in episode["steps"]] == [*expect["masks"], [True] * 3]


@pytest.mark.long
def test_rlds_of_boxes(server: Server, boxes: Any, tmp_path: Path) -> None:
    run, expected = boxes
    action = spaces.Box(-0.1, 0.2, (2,), np.float64)
    for episode, expect in zip(of_rlds(server, run.run_id, tmp_path / "rlds"), expected, strict=True):
        compare_steps(episode, expect, spaces.Box(-1, 1, (2,), np.float32), action)
        drawn = np.array([step["drawn_action"] for step in episode["steps"]], np.float32)
        clipped = np.clip(drawn[:-1], np.float32(-0.1), np.float32(0.2)).astype(np.float64)
        assert clipped.tolist() == [step["action"][2] for step in episode["steps"][:-1]]
