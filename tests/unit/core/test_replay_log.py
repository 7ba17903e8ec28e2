"""Replay buffers on disk: what is new, what wraps, what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from auxilium_rl.core.errors import ModelCorrupt
from auxilium_rl.core.replay_log import ReplayLog, parts_of
from auxilium_rl.infra.model_store import ModelStore

SIZE, LANES = 10, 2
BOX = spaces.Box(-1, 1, (3,))


def made(kind: str = "plain") -> Any:
    if kind == "plain":
        return ReplayBuffer(SIZE * LANES, BOX, spaces.Discrete(4), "cpu", n_envs=LANES)
    space = spaces.Dict({"a": BOX, "b": spaces.Box(0, 255, (2, 2), np.uint8)})
    return DictReplayBuffer(SIZE * LANES, space, spaces.Discrete(4), "cpu", n_envs=LANES)


def add(buffer: Any, count: int, random: np.random.Generator) -> None:
    def row() -> Any:
        if isinstance(buffer, DictReplayBuffer):
            return {"a": random.random((LANES, 3)), "b": random.integers(0, 255, (LANES, 2, 2))}
        return random.random((LANES, 3))

    for _ in range(count):
        flags = random.random(LANES) < 0.3
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in flags]
        buffer.add(row(), row(), random.integers(0, 4, LANES), random.random(LANES), flags, infos)


def same(one: Any, other: Any) -> bool:
    def arrays(buffer: Any) -> list[Any]:
        found = [buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts]
        for values in (buffer.observations, buffer.next_observations):
            found += list(values.values()) if isinstance(values, dict) else [values]
        return found

    # rows beyond ``pos`` of a buffer that is not full were never written
    rows = SIZE if one.full else one.pos
    pairs = zip(arrays(one), arrays(other), strict=True)
    return (one.pos, one.full) == (other.pos, other.full) and all((a[:rows] == b[:rows]).all() for a, b in pairs)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", tmp_path / "checkpoints")


def names(store: ModelStore) -> set[str]:
    return {path.name for path in (store.checkpoint_dir / "run" / "parts").iterdir()}


@pytest.mark.parametrize("kind", ["plain", "dict"])
@pytest.mark.parametrize("steps", [[0], [3], [3, 4], [7, 7, 7], [10], [10, 10], [4, 6], [25], [3, 40, 2], [1] * 25])
def test_it_comes_back_and_goes_on(kind: str, steps: list[int], store: ModelStore) -> None:
    random = np.random.default_rng(1)
    buffer, done = made(kind), 0
    log = ReplayLog(store, "run", buffer, timesteps=0, rows=0)
    for count in [*steps, 5]:
        kept = log.save(done)
        store.keep_parts("run", parts_of([kept]))
        assert names(store) == parts_of([kept]) if done else not parts_of([kept])
        other = made(kind)
        again = ReplayLog.restored(store, "run", other, kept, done)
        assert same(buffer, other)
        if count % 2:  # another worker goes on
            buffer, log = other, again
        add(buffer, count, random)
        done += count * LANES


def test_a_save_writes_only_what_is_new(store: ModelStore) -> None:
    random, buffer = np.random.default_rng(1), made()
    log = ReplayLog(store, "run", buffer, timesteps=0, rows=0)
    add(buffer, 6, random)
    before = parts_of([log.save(12)])
    assert parts_of([log.save(12)]) == before
    add(buffer, 2, random)
    kept = log.save(16)
    assert [(part["first"], part["last"]) for part in kept["parts"]] == [(0, 6), (6, 8)]
    add(buffer, 9, random)
    assert [(part["first"], part["last"]) for part in log.save(34)["parts"]] == [(6, 8), (8, 17)]


def test_a_learner_that_was_stopped_inside_of_a_step(store: ModelStore) -> None:
    random, buffer = np.random.default_rng(1), made()
    log = ReplayLog(store, "run", buffer, timesteps=0, rows=0)
    add(buffer, 9, random)
    assert log.save(20)["rows"] == 9
    add(buffer, 1, random)
    assert log.save(20)["rows"] == 10
    with pytest.raises(AssertionError):
        log.save(24)


def test_damage_is_seen(store: ModelStore) -> None:
    random, buffer = np.random.default_rng(1), made()
    log = ReplayLog(store, "run", buffer, timesteps=0, rows=0)
    for done in (8, 16):
        add(buffer, 4, random)
        kept = log.save(done)
    first = store.checkpoint_dir / "run" / "parts" / kept["parts"][0]["name"]
    with pytest.raises(ModelCorrupt, match="rows 4 to 8 of the replay buffer are missing"):
        ReplayLog.restored(store, "run", made(), {**kept, "parts": kept["parts"][:1]}, 16)
    with pytest.raises(ModelCorrupt, match="rows 0 to 4 of the replay buffer are missing"):
        ReplayLog.restored(store, "run", made(), {**kept, "parts": kept["parts"][1:]}, 16)
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelCorrupt, match="is not what was recorded"):
        ReplayLog.restored(store, "run", made(), kept, 16)
    first.unlink()
    with pytest.raises(ModelCorrupt, match="is missing"):
        ReplayLog.restored(store, "run", made(), kept, 16)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "."])
def test_parts_stay_in_their_folder(name: str, store: ModelStore) -> None:
    with pytest.raises(ValueError, match="is not the name of a part"):
        store.put_part("run", name, b"")
    with pytest.raises(ValueError, match="is not a run id"):
        store.read_part("..", "name", "")
