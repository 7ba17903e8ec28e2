"""A learner's ``TrajectoryStore`` that several actors feed, over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from auxilium_rl.functions import ReplayStore, TrajectoryStore, future, now, sequence
from auxilium_rl.functions.trainer import DataStoreBase, QueuedDataStore, TrainerClient, TrainerConfig, TrainerServer


@pytest.fixture
def server() -> Iterator[TrainerServer]:
    made = TrainerServer(TrainerConfig(0, 0))
    made.register_data_store("actor", TrajectoryStore(50_000, seed=0))
    made.start(threaded=True)
    yield made
    made.stop()


def learner(server: TrainerServer) -> TrajectoryStore:
    store = server.data_store("actor")
    assert isinstance(store, TrajectoryStore)
    return store


def client(server: TrainerServer, store: DataStoreBase) -> TrainerClient:
    return TrainerClient("actor", "127.0.0.1", TrainerConfig(server.port, server.broadcast_port), data_store=store)


def step(who: int, episode: int, n: int, last: bool, **more: Any) -> dict[str, Any]:
    return {"who": who, "episode": episode, "n": n, "obs": np.full(4, n, np.float32), "end_of_trajectory": last, **more}


def is_whole(store: TrajectoryStore) -> bool:
    """No window and no future is of two actors, or of two of their episodes, or has a gap."""
    asked = {key: sequence(length=4) for key in ("who", "episode", "n")} | {"later": future(("who", "episode", "n"))}
    data, _ = store.sample(4000, asked)
    later = data["later"]["data"]
    return bool(
        (data["who"] == data["who"][:, :1]).all()
        and (data["episode"] == data["episode"][:, :1]).all()
        and (data["n"] == data["n"][:, :1] + np.arange(4)).all()
        and (later["who"] == data["who"][:, 0]).all()
        and (later["episode"] == data["episode"][:, 0]).all()
        and (later["n"] == data["n"][:, 0] + data["later"]["offset"]).all()
    )


@pytest.mark.parametrize("kind", [QueuedDataStore, TrajectoryStore])
def test_two_actors_one_after_the_other(server: TrainerServer, kind: type[QueuedDataStore | TrajectoryStore]) -> None:
    """Their steps come mixed, and say nothing of who sent them to the store."""
    stores = [kind(5000), kind(5000)]
    clients = [client(server, store) for store in stores]
    for n in range(600):
        for who, store in enumerate(stores):
            store.insert(step(who, n // 50, n % 50, n % 50 == 49))
            if n % (7 + who) == 0:
                assert clients[who].update()
    for one in clients:
        one.stop()
    assert len(learner(server)) == 1200
    assert is_whole(learner(server))
    assert learner(server).starts({"n": sequence(length=4)}) == 2 * 12 * 47


def test_actors_in_threads_with_two_environments_each(server: TrainerServer) -> None:
    wrong = []

    def act(who: int) -> None:
        store = QueuedDataStore(5000)
        one = client(server, store)
        one.start_async_update(interval=0.01)
        for n in range(400):
            for env in ("left", "right"):
                store.insert(step(who, (n // 40) * 2 + (env == "left"), n % 40, n % 40 == 39, trajectory=env))
        one.stop()

    actors = [threading.Thread(target=act, args=(who,)) for who in range(2)]
    for thread in actors:
        thread.start()
    while any(thread.is_alive() for thread in actors):
        if learner(server).starts({"n": sequence(length=4)}) and not is_whole(learner(server)):
            wrong.append(1)
    for thread in actors:
        thread.join()
    assert not wrong
    assert is_whole(learner(server))
    assert learner(server).starts({"n": sequence(length=4)}) == 2 * 2 * 10 * 37


def test_an_actor_that_is_started_again_begins_anew(server: TrainerServer) -> None:
    for who in range(2):
        store = QueuedDataStore(100)
        one = client(server, store)
        for n in range(10):
            store.insert(step(who, 0, n, False))
        one.stop()
    assert is_whole(learner(server))
    assert learner(server).starts({"n": sequence(length=4)}) == 14


def test_steps_that_were_lost_end_a_trajectory(server: TrainerServer) -> None:
    store = QueuedDataStore(10)
    one = client(server, store)
    for n in range(40):
        store.insert(step(0, 0, n, False))
        if n in (7, 30):
            assert one.update()
    one.stop()
    assert one.lost == 13
    assert [item["n"] for item in learner(server).get_latest_data(-1)] == [*range(8), *range(21, 40)]
    assert is_whole(learner(server))
    assert learner(server).starts({"n": sequence(length=4)}) == 5 + 16


def test_a_step_of_another_structure_is_not_stored(server: TrainerServer) -> None:
    store = QueuedDataStore(10)
    one = client(server, store)
    store.insert(step(0, 0, 0, False))
    assert one.update()
    store.insert(step(0, 0, 1, False))
    store.insert({"n": 2})
    assert not one.update()  # the log says which field
    assert not one.update()
    assert len(learner(server)) == 1
    one.stop()


def test_transitions_from_an_actor(server: TrainerServer) -> None:
    replay, store = ReplayStore(100), QueuedDataStore(100)
    server.register_data_store("actor", replay)
    one = client(server, store)
    for n in range(150):
        store.insert({"n": n, "obs": np.full(3, n)})
        assert n % 50 or one.update()
    one.stop()
    assert set(replay.sample(5000)["n"].tolist()) == set(range(50, 150))


def test_a_store_that_was_loaded_takes_what_is_sent_again_as_new(server: TrainerServer, tmp_path: Any) -> None:
    """A server that starts with a file does not know what its actors had sent: no window has a step twice."""
    store = QueuedDataStore(100)
    one = client(server, store)
    for n in range(10):
        store.insert(step(0, 0, n, False))
    assert one.update()
    learner(server).save(tmp_path / "store")
    loaded = TrajectoryStore.load(tmp_path / "store")
    server.register_data_store("actor", loaded)
    server._last.clear()
    store.insert(step(0, 0, 10, True))
    one.stop()
    assert is_whole(loaded)
    assert loaded.sample(5, {"n": now()})[1]["n"].all()
