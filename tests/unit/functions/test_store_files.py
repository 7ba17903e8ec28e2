"""A store's file is there whole or not at all, and nothing in it is believed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auxilium_rl.functions import DamagedStore, NotEnoughSteps, ReplayStore, TrajectoryStore, now, sequence

ASKED = {"id": sequence(before=3, after=3, pad="zero"), "ended": now("end_of_trajectory"), "step_id": now()}


def filled(count: int, capacity: int = 40) -> TrajectoryStore:
    store = TrajectoryStore(capacity, ends=("done",), seed=0)
    rng = np.random.default_rng(0)
    for number in range(count):
        step = {"id": number, "obs": {"x": np.full((2, 3), number, np.float32)}, "done": rng.random() < 0.1}
        store.batch_insert_from(str(rng.choice(["", "a"])), [step | {"trajectory": ["left", 3, None][rng.integers(3)]}])
    return store


def same(one: TrajectoryStore, two: TrajectoryStore) -> bool:
    if len(one) == 0 or one.latest_data_id() != two.latest_data_id() or one.capacity != two.capacity:
        return len(one) == len(two) == 0 and one.latest_data_id() == two.latest_data_id()
    ids = range(one.latest_data_id() + 1 - len(one), one.latest_data_id() + 1)
    (mine, my_mask), (theirs, their_mask) = one.at(ids, ASKED), two.at(ids, ASKED)
    steps = zip(one.get_latest_data(-1), two.get_latest_data(-1), strict=True)
    return (
        all((mine[key] == theirs[key]).all() and (my_mask[key] == their_mask[key]).all() for key in ASKED)
        and all(pickle.dumps(first) == pickle.dumps(second) for first, second in steps)
        and all((one.get_latest_data(-1)[0]["obs"]["x"] == two.get_latest_data(-1)[0]["obs"]["x"]).ravel())
    )


@pytest.mark.parametrize("count", [0, 1, 39, 40, 41, 333])
def test_what_was_saved_goes_on(tmp_path: Path, count: int) -> None:
    store = filled(count)
    store.save(tmp_path / "store")
    loaded = TrajectoryStore.load(tmp_path / "store", seed=1)
    assert same(store, loaded)
    for number in range(count, count + 100):  # open ones go on, ended ones do not, and the ring turns
        for one in (store, loaded):
            source, name = ["", "a"][number % 2], ["left", 3, None][number % 3]
            one.batch_insert_from(
                source,
                [
                    {
                        "id": number,
                        "obs": {"x": np.ones((2, 3), np.float32)},
                        "done": number % 9 == 0,
                        "trajectory": name,
                    }
                ],
            )
        assert same(store, loaded)
    store.save(tmp_path / "store")
    assert same(store, TrajectoryStore.load(tmp_path / "store"))
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_transitions(tmp_path: Path) -> None:
    store = ReplayStore(5)
    store.batch_insert({"x": np.full(3, n), "y": {"z": n > 2}} for n in range(7))
    store.save(str(tmp_path / "store.npz"))
    loaded = ReplayStore.load(str(tmp_path / "store.npz"), seed=0)
    assert [one["x"].tolist() for one in loaded.get_latest_data(-1)] == [[n] * 3 for n in range(2, 7)]
    loaded.insert({"x": np.full(3, 7), "y": {"z": True}})
    assert (loaded.latest_data_id(), len(loaded)) == (7, 5)
    assert set(loaded.sample(200)["x"][:, 0].tolist()) == {3, 4, 5, 6, 7}
    with pytest.raises(DamagedStore, match="ReplayStore of version 1; TrajectoryStore, 1 is accepted"):
        TrajectoryStore.load(tmp_path / "store.npz")
    ReplayStore(5).save(tmp_path / "empty")
    with pytest.raises(NotEnoughSteps):
        ReplayStore.load(tmp_path / "empty").sample(1)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(20).save(tmp_path / "store")

    def full(file: Any, **_: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        filled(30).save(tmp_path / "store")
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert same(TrajectoryStore.load(tmp_path / "store"), filled(20))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TrajectoryStore.load(tmp_path / "store")
    with pytest.raises(FileNotFoundError):
        filled(1).save(tmp_path / "nowhere" / "store")


def test_a_damaged_file_is_refused_or_makes_no_difference(tmp_path: Path) -> None:
    store, path = filled(60), tmp_path / "store"
    store.save(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 5):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                assert same(TrajectoryStore.load(path), store), place
            except DamagedStore:
                refused += 1
    assert refused > 0.5 * len(whole) / 5


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """The file with other contents, every checksum right."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    told = json.loads(arrays.pop("told").tobytes())
    change(told, arrays)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda told, arrays: told.update(capacity=-1),
        lambda told, arrays: told.update(capacity=0),
        lambda told, arrays: told.update(capacity=40.0),
        lambda told, arrays: told.update(capacity=39),
        lambda told, arrays: told.update(capacity=10**18),
        lambda told, arrays: told.update(capacity=10**30),
        lambda told, arrays: told.update(next=3),
        lambda told, arrays: told.update(next=10**30),
        lambda told, arrays: told.update(next=True),
        lambda told, arrays: told.update(version=2),
        lambda told, arrays: told.pop("fields"),
        lambda told, arrays: told.update(fields=[]),
        lambda told, arrays: told.update(fields=7),
        lambda told, arrays: told["fields"][0].__setitem__(2, "|O"),
        lambda told, arrays: told["fields"][0].__setitem__(2, "<f8"),
        lambda told, arrays: told["fields"][0].__setitem__(1, [1]),
        lambda told, arrays: told["fields"][0].__setitem__(0, "obs/x"),
        lambda told, arrays: told["fields"][0].__setitem__(0, "trajectory"),
        lambda told, arrays: told.update(names=[]),
        lambda told, arrays: told["names"].append(["", "more"]),
        lambda told, arrays: told["names"].__setitem__(0, ["", {}]),
        lambda told, arrays: told.update(ends=["nothing"]),
        lambda told, arrays: arrays.update(field0=arrays["field0"][1:]),
        lambda told, arrays: arrays.update(field0=arrays["field0"].astype(object)),
        lambda told, arrays: arrays.update(more=arrays["field0"]),
        lambda told, arrays: arrays.pop("field1"),
        lambda told, arrays: arrays.update(trajectory=arrays["trajectory"] - 1),
        lambda told, arrays: arrays.update(trajectory=arrays["trajectory"] + 10**12),
        lambda told, arrays: arrays.update(trajectory=arrays["trajectory"] * 0),
        lambda told, arrays: arrays.update(trajectory=arrays["trajectory"].astype(np.int32)),
        lambda told, arrays: arrays.update(ended=arrays["ended"][:-1]),
        lambda told, arrays: (arrays["ended"].fill(False), told.update(names=[["", None]] * len(told["names"]))),
    ],
)  # fmt: skip
def test_contents_that_do_not_fit(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "store"
    filled(60).save(path)
    edited(path, lambda told, arrays: None)
    assert same(TrajectoryStore.load(path), filled(60))
    edited(path, change)
    with pytest.raises(DamagedStore, match="store"):
        TrajectoryStore.load(path)


class Hostile:
    def __reduce__(self) -> Any:
        return pytest.fail, ("it was unpickled",)


def test_hostile_files(tmp_path: Path) -> None:
    path, hostile = tmp_path / "store", io.BytesIO()
    np.save(hostile, np.array([Hostile()], object), allow_pickle=True)
    filled(20).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("field7.npy", hostile.getvalue())
    with pytest.raises(DamagedStore, match="allow_pickle=False"):
        TrajectoryStore.load(path)
    for content in (hostile.getvalue(), pickle.dumps(Hostile()), b"", b"PK\x05\x06" + bytes(18), b"[" * 10**5):
        path.write_bytes(content)
        with pytest.raises(DamagedStore, match="not a store that was saved"):
            TrajectoryStore.load(path)
    with path.open("wb") as file:
        np.savez_compressed(file, told=np.zeros(10**6))
    with pytest.raises(DamagedStore, match="a compressed archive given"):
        TrajectoryStore.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("told", b"{}")
    with pytest.raises(DamagedStore):
        TrajectoryStore.load(path)
