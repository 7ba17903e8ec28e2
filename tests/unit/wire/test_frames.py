from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from auxilium_rl.wire.frames import FrameError, FrameSocket, connect_lane, is_loopback


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield FrameSocket(ours, limit=1000), theirs
    ours.close()
    theirs.close()


def test_frames_keep_their_borders(pair: tuple[FrameSocket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(struct.pack("<I", 3) + b"abc" + struct.pack("<I", 2) + b"de")
    theirs.close()
    assert [ours.receive(), ours.receive(), ours.receive()] == [b"abc", b"de", b""]


def test_a_frame_that_comes_in_pieces(pair: tuple[FrameSocket, socket.socket]) -> None:
    ours, theirs = pair
    data = struct.pack("<I", 600) + bytes(range(200)) * 3

    def drip() -> None:
        for start in range(0, len(data), 7):
            theirs.sendall(data[start : start + 7])

    thread = threading.Thread(target=drip)
    thread.start()
    assert ours.receive() == data[4:]
    thread.join()


@pytest.mark.parametrize("length", [0, 1001, 2**32 - 1])
def test_a_wrong_length_is_refused_before_anything_is_allocated(
    length: int, pair: tuple[FrameSocket, socket.socket]
) -> None:
    ours, theirs = pair
    theirs.sendall(struct.pack("<I", length))
    with pytest.raises(FrameError, match=f"a frame of {length} bytes was announced; 1 to 1000 are accepted"):
        ours.receive()


@pytest.mark.parametrize("part", [b"\x05", struct.pack("<I", 5) + b"ab"])
def test_a_connection_that_closes_inside_a_frame(part: bytes, pair: tuple[FrameSocket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(part)
    theirs.close()
    with pytest.raises(FrameError, match="closed inside a frame"):
        ours.receive()


def test_a_message_above_the_limit_is_not_sent(pair: tuple[FrameSocket, socket.socket]) -> None:
    with pytest.raises(FrameError, match="1001 bytes; at most 1000 are sent"):
        pair[0].send(bytes(1001))


def test_waiting_ends(pair: tuple[FrameSocket, socket.socket]) -> None:
    pair[0].settimeout(0.01)
    with pytest.raises(TimeoutError):
        pair[0].receive()


def test_addresses() -> None:
    with pytest.raises(ValueError, match="unix:///path and tcp://host:port are accepted"):
        connect_lane("http://localhost:1", 1.0)
    with pytest.raises(FileNotFoundError):
        connect_lane("unix:///nowhere/at/all", 1.0)
    assert is_loopback("unix:///x")
    assert is_loopback("tcp://127.0.0.1:1")
    assert is_loopback("tcp://[::1]:1")
    assert is_loopback("tcp://localhost:1")
    assert not is_loopback("tcp://10.0.0.1:1")
    assert not is_loopback("tcp://127.evil.example:1")
