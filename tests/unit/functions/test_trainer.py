"""agentlace's loop over real sockets, and what it loses elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from auxilium_rl.functions import CallError
from auxilium_rl.functions.trainer import (
    DataStoreBase,
    QueuedDataStore,
    TrainerClient,
    TrainerConfig,
    TrainerServer,
    TrainerSMInterface,
)

PARAMS = {"layer": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "step": 3}


def answer(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    if kind == "fail":
        raise RuntimeError("no checkpoint today")
    return {"kind": kind, "sum": payload["x"].sum()}


@pytest.fixture
def server() -> Iterator[TrainerServer]:
    made = TrainerServer(config(), request_callback=answer)
    made.register_data_store("actor", QueuedDataStore(10_000))
    made.start(threaded=True)
    yield made
    made.stop()


def config(server: TrainerServer | None = None, **more: Any) -> TrainerConfig:
    ports = (0, 0) if server is None else (server.port, server.broadcast_port)
    return TrainerConfig(*ports, request_types=["stats", "fail"], **more)


def client(server: TrainerServer, store: QueuedDataStore, **more: Any) -> TrainerClient:
    return TrainerClient("actor", "127.0.0.1", config(server, **more), data_store=store)


def items(server: TrainerServer) -> list[int]:
    store = server.data_store("actor")
    assert store is not None
    return [item["n"] for item in store.get_latest_data(-1)]


def test_two_actors_and_one_that_is_started_again(server: TrainerServer) -> None:
    """Elsewhere two actors on one store lost 500 of 1,000 items, and a restarted one lost 300."""
    first, second = QueuedDataStore(5000), QueuedDataStore(5000)
    one, two = client(server, first), client(server, second)
    for number in range(500):
        first.insert({"n": number, "obs": np.zeros(3)})
        second.insert({"n": 1000 + number, "obs": np.zeros(3)})
        if number % 100 == 0:
            assert one.update()
            assert two.update()
    one.stop()
    two.stop()
    again = QueuedDataStore(5000)
    restarted = client(server, again)
    for number in range(300):
        again.insert({"n": 2000 + number, "obs": np.zeros(3)})
    assert restarted.update()
    assert restarted.update()  # nothing new
    assert restarted.get_server_last_update_id("actor") == 299
    restarted.stop()
    assert sorted(items(server)) == [*range(500), *range(1000, 1500), *range(2000, 2300)]


def test_what_is_sent_again_is_stored_once(server: TrainerServer) -> None:
    """Elsewhere 1 to 2 % were stored twice."""
    store = QueuedDataStore(5000)
    for number in range(2500):
        store.insert({"n": number})
    one = client(server, store)
    threads = [threading.Thread(target=one.update) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server._push("actor", one._source, 2490, __import__("auxilium_rl.wire.trees", fromlist=["pack"]).pack(
        [{"n": number} for number in range(2490, 2510)]
    ))  # fmt: skip
    one.stop()
    assert items(server) == list(range(2510))


def test_updates_beside_acting_lose_nothing_at_the_end(server: TrainerServer) -> None:
    store = QueuedDataStore(5000)
    one = client(server, store)
    one.start_async_update(interval=60)
    for number in range(100):
        store.insert({"n": number})
    one.stop()
    assert items(server) == list(range(100))
    assert one.lost == 0


def test_a_store_that_was_too_small_says_so(server: TrainerServer) -> None:
    store = QueuedDataStore(10)
    one = client(server, store)
    for number in range(25):
        store.insert({"n": number})
    assert one.update()
    assert one.lost == 15
    assert items(server) == list(range(15, 25))
    one.stop()


def test_networks(server: TrainerServer) -> None:
    """The first reaches everybody, also who comes later; then only the newest counts."""
    got: dict[str, list[Any]] = {"early": [], "late": []}
    seen = threading.Condition()

    def take(name: str) -> Any:
        def callback(params: dict[str, Any]) -> None:
            with seen:
                got[name].append(params)
                seen.notify_all()

        return callback

    def wait(check: Any) -> None:
        with seen:
            assert seen.wait_for(check, 20), got

    early = client(server, QueuedDataStore(1))
    early.recv_network_callback(take("early"))
    server.publish_network(PARAMS)
    wait(lambda: got["early"])
    late = client(server, QueuedDataStore(1))
    late.recv_network_callback(take("late"))
    wait(lambda: got["late"])
    for name in got:
        assert (got[name][0]["layer"]["w"] == PARAMS["layer"]["w"]).all()  # type: ignore[index]
    for step in range(50):
        server.publish_network({"step": step})
    wait(lambda: all(found[-1].get("step") == 49 for found in got.values()))
    for one in (early, late):
        one.stop()


def test_requests(server: TrainerServer) -> None:
    one = client(server, QueuedDataStore(1))
    assert one.request("stats", {"x": np.ones(4)}) == {"kind": "stats", "sum": 4.0}
    with pytest.raises(CallError, match="RuntimeError: no checkpoint today"):
        one.request("fail", {})
    with pytest.raises(CallError, match="'rm' given; stats, fail are accepted"):
        one.request("rm", {})
    one.stop()
    limited = client(server, QueuedDataStore(1), rate_limit=None)
    limited.config.rate_limit = 1
    assert limited.request("stats", {"x": np.ones(1)}) is not None
    assert limited.request("stats", {"x": np.ones(1)}) is None
    limited.stop()


def test_refusals(server: TrainerServer) -> None:
    with pytest.raises(ValueError, match="the server has"):
        client(server, QueuedDataStore(1), version="0.0.2")
    with pytest.raises(ConnectionError, match="no trainer answers"):
        TrainerClient("actor", "127.0.0.1", TrainerConfig(1, 1), QueuedDataStore(1), timeout_ms=200)
    other = TrainerClient("nobody", "127.0.0.1", config(server), QueuedDataStore(1))
    assert not other.update()  # the log says which stores there are
    assert other.get_server_last_update_id("nobody") is None
    with pytest.raises(TypeError):
        server.publish_network({"fn": print})
    other.stop()


def test_a_server_that_goes_away(server: TrainerServer) -> None:
    store = QueuedDataStore(10)
    one = client(server, store)
    store.insert({"n": 1})
    server.stop()
    assert not one.update()
    assert one.request("stats", {"x": np.ones(1)}) is None
    one.stop()


def test_in_one_process() -> None:
    both, got = TrainerSMInterface(), []
    both.register_data_store("actor", QueuedDataStore(3))
    both.register_request_callback(answer)
    both.publish_network({"step": 1})
    both.recv_network_callback(got.append)
    both.publish_network({"step": 2})
    assert [one["step"] for one in got] == [1, 2]
    assert both.request("stats", {"x": np.ones(2)}) == {"kind": "stats", "sum": 2.0}
    assert both.store_names() == {"actor"}
    assert both.update()


class Unlocked(DataStoreBase):
    """A store of a user's own, into which somebody inserts in the middle of being asked."""

    def __init__(self, inserts: int) -> None:
        super().__init__(10_000)
        self._items: list[Any] = [{"n": number} for number in range(10)]
        self._inserts = inserts

    def latest_data_id(self) -> int:
        return len(self._items) - 1

    def get_latest_data(self, from_id: int) -> list[Any]:
        found = self._items[from_id + 1 :]
        if self._inserts:
            self._inserts -= 1
            self._items.append({"n": len(self._items)})
        return found

    def __len__(self) -> int:
        return len(self._items)


def test_items_that_come_while_a_store_is_asked(server: TrainerServer) -> None:
    store = Unlocked(inserts=3)
    one = TrainerClient("actor", "127.0.0.1", config(server), data_store=store)
    assert one.update()
    one.stop()
    assert items(server) == list(range(13))
    assert one.lost == 0


def test_a_thread_that_inserts_while_updates_go_on(server: TrainerServer) -> None:
    store = QueuedDataStore(10_000)
    one = client(server, store)
    inserting = threading.Thread(target=lambda: [store.insert({"n": number}) for number in range(5000)])
    inserting.start()
    while inserting.is_alive():
        assert one.update()
    inserting.join()
    one.stop()
    assert items(server) == list(range(5000))


def test_a_callback_that_raises_gets_the_next_network(server: TrainerServer) -> None:
    one, seen, came = client(server, QueuedDataStore(10)), [], threading.Event()

    def take(network: dict[str, Any]) -> None:
        seen.append(network["step"])
        came.set()
        if len(seen) == 1:
            raise RuntimeError("not this one")

    server.publish_network({"step": 1})
    one.recv_network_callback(take)
    assert came.wait(10)
    came.clear()
    server.publish_network({"step": 2})
    assert came.wait(10)
    one.stop()
    assert seen == [1, 2]
