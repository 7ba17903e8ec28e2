"""Functions served over real sockets. Elsewhere one exception ended the server, and a call of 1.2 s gave None."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from auxilium_rl.functions import CallError, CallTimeout, InferenceClient, InferenceServer, Tensor


def double(x: Any) -> Any:
    """Twice as much."""
    return 2 * x


def fails(reason: str = "why not") -> None:
    raise KeyError(reason)


@pytest.fixture(scope="module")
def server() -> Iterator[InferenceServer]:
    with InferenceServer(workers=4) as server:
        server.register("double", double, signature={"x": Tensor((None, 3), "float32")})
        server.register("fails", fails)
        server.register("echo", lambda **anything: anything)
        yield server


@pytest.fixture
def client(server: InferenceServer) -> Iterator[InferenceClient]:
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        yield client


def test_list_and_call(client: InferenceClient) -> None:
    assert client.list() == {"double": {"x": "float32[any, 3]"}, "echo": {}, "fails": {"reason": "any"}}
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (client.call("double", x=rows) == 2 * rows).all()
    everything = {"a": rows, "b": b"raw", "c": [1.0, "x", None], "d": {"e": True}, "f": 3.5}
    found = client.call_with("echo", everything)
    assert found.keys() == everything.keys()
    assert (found["a"] == rows).all()
    assert [found[key] for key in "bcdf"] == [everything[key] for key in "bcdf"]


def test_an_exception_goes_to_its_caller_and_the_server_lives(client: InferenceClient) -> None:
    for _ in range(20):
        with pytest.raises(CallError, match="fails raised KeyError: 'no luck'") as caught:
            client.call("fails", reason="no luck")
        assert caught.value.code is grpc.StatusCode.INTERNAL
    assert (client.call("double", x=np.ones((1, 3), np.float32)) == 2).all()


def test_a_slow_call_gives_what_it_gives(server: InferenceServer, client: InferenceClient) -> None:
    server.register("slow", lambda: time.sleep(1.2) or "done")
    assert client.call("slow") == "done"


def test_deadlines(server: InferenceServer, client: InferenceClient) -> None:
    held, go, begun = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.append(1)
        held.set()
        go.wait(20)

    server.register("hold", hold)
    blocking = [client.submit("hold", deadline=20.0) for _ in range(4)]  # every worker
    held.wait(10)
    with pytest.raises(CallTimeout) as caught:
        client.call("hold", deadline=0.2)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    go.set()
    for future in blocking:
        assert future.result(10) is None
    assert client.call("echo") == {}
    assert len(begun) == 4  # the one that nobody waited for was not begun


def test_many_at_once(client: InferenceClient) -> None:
    rows = [np.full((1, 3), n, np.float32) for n in range(200)]
    futures = [client.submit("double", x=row) for row in rows]
    assert [float(future.result(10)[0, 0]) for future in futures] == [2.0 * n for n in range(200)]


def test_what_is_refused(server: InferenceServer, client: InferenceClient) -> None:
    ones = np.ones((1, 3), np.float32)
    accepted = r"an array of float32 and shape \[any, 3\] is accepted"
    for arguments, why in (
        ({}, "arguments: x missing; x is accepted"),
        ({"x": ones, "y": 1}, "arguments: 'y' given; x is accepted"),
        ({"x": [1.0, 2.0]}, f"x: list given; {accepted}"),
        ({"x": ones.astype(np.float64)}, f"x: an array of float64 .*{accepted}"),
        ({"x": ones[:, :2]}, rf"x: an array of float32 and shape \[1, 2\] given; {accepted}"),
    ):
        with pytest.raises(CallError, match=why) as caught:
            client.call_with("double", arguments)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(CallError, match="there is no function 'nothing'; double, echo") as caught:
        client.call("nothing")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(ValueError, match="object"):
        client.call("echo", x=object())
    with pytest.raises(ValueError, match="signature: z declared; it takes x"):
        server.register("wrong", double, signature={"z": Tensor((), "float32")})
    with pytest.raises(ValueError, match="name"):
        server.register(" ", double)
    with pytest.raises(ValueError, match="workers"):
        InferenceServer(workers=0)
    server.register("gives", lambda: object())
    with pytest.raises(CallError, match="gives raised ValueError"):
        client.call("gives")


def test_nobody_there() -> None:
    with InferenceClient("127.0.0.1:1", timeout=5.0) as client, pytest.raises(CallError) as caught:
        client.call("double")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
