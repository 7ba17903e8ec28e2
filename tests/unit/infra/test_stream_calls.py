"""Both ways to hold one bidirectional call, against a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from auxilium_rl.infra.session import stream_calls
from auxilium_rl.infra.session.stream_calls import CallEnded, DirectCall, QueuedCall, StreamCall, open_call

Open = Callable[[str], StreamCall]


def _echo(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
    for request in requests:
        if request == b"end":
            return
        yield request


def _refuse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    next(requests)
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you: ä")
    yield b""


class Counting:
    """Says how many calls are open."""

    def __init__(self) -> None:
        self.open = 0
        self.changed = threading.Condition()

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._add(1)
        context.add_callback(lambda: self._add(-1))
        yield from requests

    def _add(self, number: int) -> None:
        with self.changed:
            self.open += number
            self.changed.notify_all()


COUNTING = Counting()


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    handlers = {
        name: grpc.stream_stream_rpc_method_handler(behaviour)
        for name, behaviour in (("Echo", _echo), ("Refuse", _refuse), ("Counting", COUNTING))
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()


@pytest.fixture(params=[DirectCall, QueuedCall])
def opened(request: pytest.FixtureRequest, channel: grpc.Channel) -> Iterator[Open]:
    calls = []

    def open_one(method: str) -> StreamCall:
        calls.append(request.param(channel, f"/test.Service/{method}"))
        return calls[-1]  # type: ignore[no-any-return]

    yield open_one
    for call in calls:
        call.close()


def test_requests_and_answers(opened: Open) -> None:
    call = opened("Echo")
    for data in (b"a", b"b" * (1 << 20), b"", b"c"):
        call.send(data)
        assert call.receive() == data


def test_an_end_is_told_again(opened: Open) -> None:
    call = opened("Echo")
    call.send(b"end")
    for _ in range(2):
        with pytest.raises(CallEnded) as ended:
            call.receive()
        assert ended.value.code is grpc.StatusCode.OK
    call.send(b"late")  # no error: receive says it
    with pytest.raises(CallEnded):
        call.receive()


def test_a_refusal(opened: Open) -> None:
    call = opened("Refuse")
    call.send(b"let me in")
    with pytest.raises(CallEnded, match="PERMISSION_DENIED: not you: ä") as ended:
        call.receive()
    assert ended.value.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_whoever_waits_is_woken(end: str, opened: Open) -> None:
    call = opened("Echo")
    call.send(b"a")
    call.receive()
    codes: list[grpc.StatusCode] = []

    def wait() -> None:
        try:
            call.receive()
        except CallEnded as ended:
            codes.append(ended.code)

    waiting = threading.Thread(target=wait)
    waiting.start()
    getattr(call, end)()
    waiting.join(10)
    assert codes == [grpc.StatusCode.CANCELLED]


def test_nobody_there() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as nowhere:
        for kind in (DirectCall, QueuedCall):
            call = kind(nowhere, "/test.Service/Echo")
            call.send(b"a")
            with pytest.raises(CallEnded) as ended:
                call.receive()
            assert ended.value.code is grpc.StatusCode.UNAVAILABLE
            call.close()


def test_a_closed_call_is_gone_from_the_server(opened: Open) -> None:
    calls = [opened("Counting") for _ in range(5)]
    for call in calls:
        call.send(b"here")
        call.receive()
    assert COUNTING.open == 5
    for call in calls:
        call.close()
        call.close()  # again is no error
    with COUNTING.changed:
        assert COUNTING.changed.wait_for(lambda: COUNTING.open == 0, timeout=10)


def test_another_grpcio_is_served_by_its_public_interface(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = open_call(channel, "/test.Service/Echo")
    assert isinstance(direct, DirectCall)
    direct.close()

    def without(*_: Any) -> None:
        raise AttributeError("'Channel' object has no attribute 'segregated_call'")

    monkeypatch.setattr(stream_calls.DirectCall, "__init__", without)
    call = open_call(channel, "/test.Service/Echo")
    call.send(b"a")
    assert call.receive() == b"a"
    call.close()


@pytest.mark.parametrize("kind", [DirectCall, QueuedCall])
def test_the_channel_closes_first(kind: Callable[[grpc.Channel, str], StreamCall]) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    call = kind(channel, "/test.Service/Echo")
    call.send(b"a")
    call.receive()
    channel.close()
    with pytest.raises(CallEnded):
        call.receive()
    call.close()
    server.stop(None).wait()


def test_many_at_once(channel: grpc.Channel) -> None:
    """An answer may come before the word that its request was sent; with many threads it soon does."""
    wrong: list[object] = []

    def talk(number: int) -> None:
        call = DirectCall(channel, "/test.Service/Echo")
        try:
            for turn in range(500):
                data = f"{number} {turn}".encode()
                call.send(data)
                if call.receive() != data:
                    wrong.append(data)
        except Exception as error:  # the assertion shows it
            wrong.append(error)
        finally:
            call.close()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
