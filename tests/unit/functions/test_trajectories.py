"""Windows and futures that never leave a trajectory, whoever inserts meanwhile, and files that are whole."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from auxilium_rl.functions import (
    InvalidStep,
    NotEnoughSteps,
    ReplayStore,
    Tensor,
    TrajectoryStore,
    future,
    next_step,
    now,
    sequence,
)

STRUCTURE = {
    "observation": {"pixels": Tensor((2, 2), "uint8"), "speed": Tensor((), "float32")},
    "action": spaces.Box(-1, 1, (3,), np.float32),
    "reward": np.zeros((), np.float64),
}


def step(**other: Any) -> dict[str, Any]:
    observation = {"pixels": np.ones((2, 2), np.uint8), "speed": np.float32(2)}
    return {"observation": observation, "action": np.ones(3, np.float32), "reward": 1.5, **other}


def filled(*lengths: int, capacity: int = 1000, seed: int = 0, still_open: bool = False) -> TrajectoryStore:
    """Trajectories of these lengths; ``t`` is which, from 0, ``n`` the step in it."""
    store = TrajectoryStore(capacity, seed=seed)
    for t, length in enumerate(lengths):
        for n in range(length):
            last = n == length - 1 and not (still_open and t == len(lengths) - 1)
            store.insert({"t": t, "n": n}, end_of_trajectory=last)
    return store


def far_from(counts: Any, expected: Any) -> bool:
    """Pearson's test, at about 1 in 30,000 (Wilson and Hilferty's approximation)."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    free = counts.size - 1
    critical = free * (1 - 2 / (9 * free) + 4 * np.sqrt(2 / (9 * free))) ** 3
    return bool(((counts - expected) ** 2 / expected).sum() > critical)


# -- structure


def test_steps_come_back_as_they_were() -> None:
    store = TrajectoryStore(10, STRUCTURE)
    store.insert(step())
    store.batch_insert([step(reward=2, trajectory="b"), step(trajectory=np.int64(7), end_of_trajectory=np.True_)])
    first, second, third = store.get_latest_data(-1)
    assert first["observation"]["pixels"].dtype == np.uint8
    assert first["observation"]["pixels"].tolist() == [[1, 1], [1, 1]]
    assert (first["reward"], second["reward"]) == (1.5, 2.0)
    assert [one.get("trajectory") for one in (first, second, third)] == [None, "b", 7]
    assert [one["end_of_trajectory"] for one in (first, second, third)] == [False, False, True]
    assert (store.latest_data_id(), len(store)) == (2, 3)
    assert store.numbered(0)[0] == 1
    assert store.get_latest_data(2) == store.get_latest_data(50) == []


@pytest.mark.parametrize(
    ("given_step", "message"),
    [
        (step(reward=np.float32(1)), r"reward: float32 of shape \[\] given; float64 of shape \[\] is accepted"),
        (step(action=np.ones(2, np.float32)), r"action: float32 of shape \[2\] given; float32 of shape \[3\]"),
        (step(action=[1, 2, 3]), r"action: int64 of shape \[3\] given"),
        (step(action=[[1], [2, 3]]), "action: list given; an array is accepted"),
        (step(reward="much"), "reward: <U4 of shape"),
        (step(reward=None), r"reward: object of shape \[\] given"),
        (step(reward=True), "reward: bool True given"),
        (step(observation=np.ones(3)), "observation: ndarray given; a map of pixels, speed is accepted"),
        (step(observation={"pixels": np.ones((2, 2), np.uint8)}), "observation: observation/speed missing; pixels,"),
        (step(mask=1), "step: mask unknown; observation, action, reward are accepted"),
        (step(trajectory=1.5), "trajectory: float given; text or a whole number"),
        (step(end_of_trajectory="no"), "end_of_trajectory: <U2"),
        ([1], "step: list given; a map"),
    ],
)  # fmt: skip
def test_a_step_of_another_structure_is_refused(given_step: Any, message: str) -> None:
    declared, inferred = TrajectoryStore(10, STRUCTURE), TrajectoryStore(10)
    inferred.insert(step())
    for store, there in ((declared, 0), (inferred, 1)):
        with pytest.raises(InvalidStep, match=message):
            store.insert(given_step)
        with pytest.raises(InvalidStep, match=message):
            store.batch_insert([step(), given_step])  # all or none, so what is sent again is not there twice
        assert len(store) == there


def test_numbers_of_python_are_taken_where_they_fit() -> None:
    store = TrajectoryStore(10, {"x": Tensor((), "uint8"), "y": Tensor((), "float32"), "z": Tensor((), "bool")})
    store.insert({"x": 255, "y": 1, "z": False})
    store.insert({"x": 0, "y": float("inf"), "z": True})
    for wrong in ({"x": 256}, {"x": -1}, {"x": 1.0}, {"x": True}, {"y": 1e300}, {"y": "1"}, {"z": 1}):
        with pytest.raises(InvalidStep, match=f"{next(iter(wrong))}: "):
            store.insert({"x": 0, "y": 0.5, "z": False, **wrong})
    assert len(store) == 2


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({}, "nothing given"),
        ({"a/b": Tensor((), "int8")}, "without '/'"),
        ({"a": Tensor((None,), "int8")}, "a whole shape"),
        ({"a": spaces.Text(5)}, "a: Text given"),
        ({"a": np.zeros(3, object)}, "a: object given"),
        ({"trajectory": Tensor((), "int8")}, "trajectory, step_id are no fields"),
        ({"step_id": Tensor((), "int8")}, "step_id: a field of this name given"),
    ],
)
def test_a_structure_that_cannot_be_kept(structure: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidStep, match=message):
        TrajectoryStore(10, structure)


def test_what_is_refused_first_declares_nothing() -> None:
    store = TrajectoryStore(10, ends=("done",))
    for wrong in ({"x": 1}, {"x": 1, "step_id": 2, "done": False}, {"x": "text", "done": False}, {}):
        with pytest.raises(InvalidStep):
            store.insert(wrong)
    with pytest.raises(InvalidStep):
        store.batch_insert([{"x": 1, "done": False}, {"x": 1.5, "done": False}])
    store.insert({"other": 1, "done": True})
    assert store.get_latest_data(-1) == [{"other": 1, "done": True, "end_of_trajectory": True}]
    with pytest.raises(ValueError, match="capacity: 0 given"):
        TrajectoryStore(0)


# -- windows


def test_windows_are_padded_at_both_ends() -> None:
    store = filled(3, 2)
    asked = {
        "n": sequence(before=2, after=1, pad="edge"),
        "t": sequence(length=4, pad="zero"),
        "z": next_step("n", pad="zero"),
    }
    data, mask = store.at(range(5), asked)
    assert data["n"].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 2], [0, 0, 0, 1], [0, 0, 1, 1]]
    assert mask["n"].astype(int).tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0]]
    assert data["t"].tolist() == [[0, 0, 0, 0]] * 3 + [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert mask["t"].sum(1).tolist() == [3, 2, 1, 2, 1]
    assert data["z"].tolist() == [1, 2, 0, 1, 0]
    assert mask["z"].tolist() == [True, True, False, True, False]


def test_windows_that_are_refused_are_not_drawn() -> None:
    store = filled(3, 2, 5)
    asked = {"n": sequence(before=1, after=2)}
    assert store.starts(asked) == 2
    data, mask = store.sample(100, asked | {"t": now()})
    assert mask["n"].all()
    assert set(map(tuple, data["n"].tolist())) == {(0, 1, 2, 3), (1, 2, 3, 4)}
    assert set(data["t"].tolist()) == {2}
    assert store.sample(7, {"n": sequence(before=3, after=-1)})[0]["n"].shape == (7, 3)
    with pytest.raises(NotEnoughSteps, match="0 before it and 5 after it"):
        store.sample(1, {"n": sequence(length=6)})
    with pytest.raises(NotEnoughSteps, match="ids: 4 given"):
        store.at([0, 4], {"n": next_step()})
    with pytest.raises(NotEnoughSteps, match="steps from 0 to 9"):
        store.at([10])


def test_an_open_trajectory_goes_on() -> None:
    store = filled(4, 3, still_open=True)
    assert store.sample(50, {"last": now("end_of_trajectory"), "n": now()})[0]["last"].sum() > 0
    assert store.starts({"n": next_step()}) == 3 + 2
    store.insert({"t": 1, "n": 3})
    assert store.starts({"n": next_step()}) == 3 + 3
    store.end_trajectory()
    store.insert({"t": 2, "n": 0})
    assert store.starts({"n": next_step()}) == 3 + 3
    assert [one["end_of_trajectory"] for one in store.get_latest_data(5)] == [False, True, False]


def test_overwriting_takes_the_beginning_of_the_oldest_trajectory() -> None:
    store = filled(6, 6, capacity=8)
    data, mask = store.at(range(4, 12), {"n": sequence(before=2, pad="edge"), "t": now(), "id": now("step_id")})
    assert data["n"].tolist()[:3] == [[4, 4, 4], [4, 4, 5], [0, 0, 0]]
    assert mask["n"].sum(1).tolist() == [1, 2, 1, 2, 3, 3, 3, 3]
    assert data["t"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert data["id"].tolist() == list(range(4, 12))
    with pytest.raises(NotEnoughSteps):
        store.at([3])
    one = filled(3, 1, 2, capacity=1, still_open=True)
    assert one.at([5])[0] == {"t": np.array([2]), "n": np.array([1])}


def test_maps_of_fields_and_several_fields() -> None:
    store = TrajectoryStore(10, STRUCTURE, ends=("reward",))
    for reward in (0, 0, 1):
        store.insert(step(reward=reward))
    data, _ = store.sample(4, {
        "observation": sequence(length=2),
        "pixels": now("observation/pixels"),
        "both": future(("action", "reward"), offset=1),
    })  # fmt: skip
    assert data["observation"]["pixels"].shape == (4, 2, 2, 2)
    assert data["observation"]["speed"].shape == (4, 2)
    assert data["pixels"].dtype == np.uint8
    assert data["both"]["data"]["action"].shape == (4, 3)
    assert data["both"]["offset"].tolist() == [1] * 4
    everything, mask = store.sample(5)
    assert set(everything) == set(mask) == {"observation", "action", "reward"}
    for source in ("nothing", "observation/x", "reward/x"):
        with pytest.raises(ValueError, match=f"source: '{source}' given; observation/pixels, observation/speed"):
            store.sample(1, {"x": now(source)})


def test_configurations_by_name_with_a_transform() -> None:
    store = filled(5)
    store.register_sample_config(
        "pairs", {"n": sequence(length=2)}, lambda data, mask: ({"sum": data["n"].sum(1)}, mask)
    )
    data, mask = store.sample(10, "pairs", rng=1)
    assert set(data["sum"].tolist()) <= {1, 3, 5, 7}
    assert mask["n"].shape == (10, 2)
    assert (store.sample(10, "pairs", rng=1)[0]["sum"] == data["sum"]).all()
    assert store.at([0], "pairs")[0]["sum"].tolist() == [1]
    assert store.starts("pairs") == 4
    with pytest.raises(ValueError, match="'other' given; pairs is registered"):
        store.sample(1, "other")
    with pytest.raises(ValueError, match="batch_size: 0 given"):
        store.sample(0)


def test_an_empty_store_has_nothing() -> None:
    for store in (TrajectoryStore(5), TrajectoryStore(5, STRUCTURE)):
        for asked in (None, {"reward": now()}, {"reward": sequence(length=2)}):
            with pytest.raises(NotEnoughSteps):
                store.sample(1, asked)
            assert store.starts(asked) == 0
        with pytest.raises(NotEnoughSteps):
            store.at([0])
        assert (store.latest_data_id(), store.get_latest_data(-1), len(store)) == (-1, [], 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sequence(before=1, after=-2), "at least one step"),
        (lambda: sequence(after=1, length=2), "one of them"),
        (lambda: sequence(length=0), "at least one step"),
        (lambda: sequence(pad="mirror"), "pad: 'mirror' given"),
        (lambda: next_step(pad=None), "pad: None given"),
        (lambda: future(p=0), "p: 0 given"),
        (lambda: future(p=1.1), "p: 1.1 given"),
        (lambda: future(least=3, most=2), "least, most: 3 and 2 given"),
        (lambda: future(least=-1), "least, most: -1"),
        (lambda: future(offset=-1), "offset: -1 given"),
        (lambda: future(offset=1, p=0.5), "no p, least or most beside it"),
    ],
)
def test_samplers_that_there_are_not(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- chance


@pytest.mark.parametrize("asked", [{"n": now()}, {"n": sequence(length=3)}, {"n": sequence(before=30, after=8)}])
def test_every_start_is_as_likely(asked: dict[str, Any]) -> None:
    """The last one fits 1 step of 9, which is another way through the code."""
    store = filled(50, 1, 2, 40, 3, 7, 100, capacity=180)
    ids, counts = np.unique(store.sample(40_000, asked | {"id": now("step_id")})[0]["id"], return_counts=True)
    assert ids.size == store.starts(asked)
    assert not far_from(counts, np.full(ids.size, 40_000 / ids.size))


@pytest.mark.parametrize(
    ("sampler", "weights"),
    [
        (future("n"), [0, 1, 1, 1, 1, 1, 1, 1]),
        (future("n", least=0), [1] * 8),
        (future("n", most=3), [0, 1, 1, 1]),
        (future("n", p=0.3), [0, *[0.7**k for k in range(7)]]),
        (future("n", p=0.3, least=2, most=5), [0, 0, 1, 0.7, 0.49, 0.343]),
        (future("n", p=1e-9), [0, 1, 1, 1, 1, 1, 1, 1]),
        (future("n", p=1), [0, 1]),
        (future("n", p=1 - 1e-16), [0, 1]),
        (future("n", offset=4), [0, 0, 0, 0, 1]),
        (future("n", offset=0), [1]),
    ],
)
def test_futures_have_their_distribution(sampler: Any, weights: list[float]) -> None:
    store = filled(8, 8)
    data, mask = store.at(np.zeros(20_000, int), {"goal": sampler}, rng=3)
    assert (data["goal"]["data"] == data["goal"]["offset"]).all()
    assert mask["goal"].all()
    counts = np.bincount(data["goal"]["offset"], minlength=len(weights))
    assert counts.size == len(weights)
    possible = np.array(weights) > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert not far_from(counts[possible], 20_000 * np.array(weights)[possible] / sum(weights))


def test_futures_stay_within_the_trajectory() -> None:
    store = filled(*np.random.default_rng(0).integers(1, 30, 40).tolist(), capacity=300, still_open=True)
    asked = {"goal": future(("t", "n")), "far": future(("t", "n"), p=0.01), "t": now(), "n": now()}
    data, _ = store.sample(5000, asked)
    for key in ("goal", "far"):
        assert (data[key]["data"]["t"] == data["t"]).all()
        assert (data[key]["data"]["n"] == data["n"] + data[key]["offset"]).all()
        assert data[key]["offset"].min() == 1


def test_seeds() -> None:
    asked = {"n": sequence(length=2), "goal": future("n")}
    one, two = filled(20, 30, seed=5), filled(20, 30, seed=5)
    for _ in range(3):
        assert (one.sample(20, asked)[0]["n"] == two.sample(20, asked)[0]["n"]).all()
    generator = np.random.default_rng(5)
    assert (one.sample(9, asked, rng=5)[0]["n"] == two.sample(9, asked, rng=generator)[0]["n"]).all()
    assert (one.sample(20, asked)[0]["n"] == two.sample(20, asked)[0]["n"]).all()


# -- against a slow and obvious one


class Obvious:
    """Lists of the steps that are left, by who sent them and what they are called."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.count = capacity, 0
        self.open: dict[tuple[str, Any], list[int]] = {}
        self.of: dict[int, list[int]] = {}

    def insert(self, source: str, name: Any, ended: bool) -> None:
        oldest = self.count - self.capacity
        if oldest in self.of:
            whose = self.of.pop(oldest)
            assert whose.pop(0) == oldest
            self.open = {key: steps for key, steps in self.open.items() if steps}
        steps = self.open.setdefault((source, name), [])
        steps.append(self.count)
        self.of[self.count] = steps
        self.count += 1
        if ended:
            del self.open[source, name]

    def end(self, source: str) -> None:
        self.open = {key: steps for key, steps in self.open.items() if key[0] != source}

    def window(self, start: int, before: int, after: int) -> list[int | None]:
        steps = self.of[start]
        place = steps.index(start)
        return [steps[at] if 0 <= at < len(steps) else None for at in range(place - before, place + after + 1)]


acts = st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([None, 1, "x"]), st.integers(0, 9))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.lists(acts, max_size=80), st.integers(0, 3), st.integers(0, 3))
def test_as_the_obvious_one_says(capacity: int, did: list[Any], before: int, after: int) -> None:
    store, obvious = TrajectoryStore(capacity, seed=0), Obvious(capacity)
    for source, name, kind in did:
        if kind == 9:
            obvious.end(source)
        one = {"id": obvious.count, "trajectory": name, "end_of_trajectory": kind < 2}
        store.batch_insert_from(source, [one], continues=kind != 9)
        obvious.insert(source, name, kind < 2)
    assert len(store) == len(obvious.of)
    for start in obvious.of:
        wanted = obvious.window(start, before, after)
        data, mask = store.at([start], {"id": sequence(before=before, after=after, pad="zero")})
        assert mask["id"][0].tolist() == [one is not None for one in wanted]
        assert data["id"][0].tolist() == [one or 0 for one in wanted]
    whole = [one for one in obvious.of if None not in obvious.window(one, before, after)]
    asked = {"id": sequence(before=before, after=after), "start": now("id")}
    assert store.starts(asked) == len(whole)
    if whole:
        data, _ = store.sample(20, asked)
        assert set(data["start"].tolist()) <= set(whole)
        assert data["id"].tolist() == [obvious.window(one, before, after) for one in data["start"].tolist()]


def test_many_open_at_once_and_one_without_end() -> None:
    """Stretches move, and are packed, over and over."""
    rng = np.random.default_rng(1)
    store, obvious = TrajectoryStore(97), Obvious(97)
    for _ in range(6000):
        name = int(rng.choice([0, rng.integers(1, 40)]))
        ended = name > 0 and rng.random() < 0.1
        store.insert({"id": obvious.count}, bool(ended), trajectory=name)
        obvious.insert("", name, bool(ended))
    starts = list(obvious.of)
    data, mask = store.at(starts, {"id": sequence(before=5, after=40, pad="zero")})
    wanted = [obvious.window(one, 5, 40) for one in starts]
    assert data["id"].tolist() == [[one or 0 for one in window] for window in wanted]
    assert mask["id"].tolist() == [[one is not None for one in window] for window in wanted]


# -- threads


def test_threads_that_insert_while_others_sample() -> None:
    """A value says whose it is, which trajectory and which step; windows of one that was overwritten would differ."""
    store, wrong = TrajectoryStore(400, {"value": Tensor((8,), "int64")}, seed=0), []
    writing = threading.Event()
    writing.set()

    def write(who: int) -> None:
        rng = np.random.default_rng(who)
        for trajectory in range(250):
            length = int(rng.integers(1, 40))
            steps = [
                {"value": np.full(8, who * 10**9 + trajectory * 10**4 + n), "end_of_trajectory": n == length - 1}
                for n in range(length)
            ]
            cut = int(rng.integers(length + 1))
            store.batch_insert_from(str(who), steps[:cut])
            store.batch_insert_from(str(who), steps[cut:])

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        asked = {"w": sequence("value", length=6), "p": sequence("value", before=4, pad="edge"), "f": future("value")}
        while writing.is_set():
            try:
                data, mask = store.sample(64, asked, rng=rng)
            except NotEnoughSteps:
                continue
            start = data["w"][:, :1]
            fine = [
                (data["w"] == start + np.arange(6)[:, None]).all(),
                (data["f"]["data"] == start[:, 0] + data["f"]["offset"][:, None]).all(),
                np.where(
                    mask["p"][..., None], data["p"] == start + np.arange(-4, 1)[:, None], data["p"] <= start
                ).all(),
                len(store.get_latest_data(store.latest_data_id() - 5)) >= 5 or len(store) < 6,
            ]
            if not all(fine):
                wrong.append((data, mask))
                return

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    writers = [threading.Thread(target=write, args=(who,)) for who in range(1, 4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    writing.clear()
    for thread in readers:
        thread.join()
    assert not wrong
    assert len(store) == 400


# -- transitions


def test_transitions() -> None:
    store = ReplayStore(50, seed=1)
    with pytest.raises(NotEnoughSteps):
        store.sample(1)
    store.batch_insert({"observation": {"x": np.full(2, n)}, "reward": float(n), "trajectory": n} for n in range(80))
    batch = store.sample(20_000)
    assert batch["observation"]["x"].shape == (20_000, 2)
    assert (batch["observation"]["x"][:, 0] == batch["reward"]).all()
    counts = np.bincount(batch["trajectory"], minlength=80)
    assert counts[:30].sum() == 0
    assert not far_from(counts[30:], np.full(50, 400))
    assert (store.sample(9, rng=4)["reward"] == store.sample(9, rng=4)["reward"]).all()
    assert [one["reward"] for one in store.get_latest_data(77)] == [78.0, 79.0]
    with pytest.raises(InvalidStep, match="trajectory: bool True given"):
        store.insert({"observation": {"x": np.zeros(2, int)}, "reward": 0.0, "trajectory": True})
    with pytest.raises(ValueError, match="batch_size: -1"):
        store.sample(-1)
