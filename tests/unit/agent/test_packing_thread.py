"""What is packed while others are seen, and after packing failed, is what was seen."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from auxilium_rl.agent.backlog import Backlog
from auxilium_rl.agent.outbox import Outbox
from auxilium_rl.agent.packing import Packer
from auxilium_rl.agent.packing_thread import PackingThread
from auxilium_rl.agent.seeing import Eye
from auxilium_rl.wire.chunks import ChunkCodec, Experience

SPACE, ACTION = spaces.Box(0, 1e9, (1000,), np.float32), spaces.Discrete(2)


class World:
    """An episode of which chunks of ``most`` steps are made."""

    def __init__(self, space: spaces.Box, most: int) -> None:
        self.eye, self.backlog, self.outbox = Eye(space, ACTION), Backlog(0), Outbox(10**6, None)
        self.packer = Packer(self.eye.counted, self.eye.counted_action, 0, compress=None)
        self.most, self.space, self.count = most or self.eye._room - 3, space, 0
        self.episode = self.backlog.begin("")

    def start(self) -> PackingThread:
        return PackingThread(self.backlog, self.packer, self.outbox, self.most, 0.0, lambda: False)

    def act(self, steps: int, thread: PackingThread | None = None) -> None:
        """Steps of which each sees its number, and gets it as a reward."""
        for number in range(self.count, self.count + steps):
            step = self.eye.see(np.full(self.space.shape, number, np.float32), None)[-1]
            step.version, step.taken, step.log_prob = 1, number % 2, -1.0
            if self.backlog.add(self.episode, step) % self.most == 0 and thread is not None:
                thread.wake()
            step.reward(number)
        self.count += steps

    def sent(self) -> list[Experience]:
        self.outbox.close()
        codec = ChunkCodec(self.space, ACTION, 0)
        return [codec.decode(one.chunk) for one in self.outbox.outgoing(threading.Event())]


@pytest.mark.parametrize(("failures", "beside"), [(0, False), (0, True), (2, True)])
def test_chunks_that_end_just_before_a_shelf_does(failures: int, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few steps that wait on it are put together elsewhere; those that are being packed lie there still."""
    world, left = World(SPACE, 0), [failures]
    pack = world.packer.pack

    def failing(*given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise MemoryError("no room for a chunk")
        return pack(*given)

    monkeypatch.setattr(world.packer, "pack", failing)
    thread, count = world.start(), 5 * world.eye._room
    world.act(count, thread if beside else None)
    world.backlog.end("", terminated=True, final=None, rewards_follow=False)
    for _ in range(failures + 1):
        thread.force()
    thread.close()
    assert thread.fault is None
    sent = world.sent()
    seen = np.concatenate([np.asarray(one.observations) for one in sent])
    assert np.array_equal(seen, np.repeat(np.arange(count, dtype=np.float32)[:, None], 1000, axis=1))
    assert np.concatenate([one.rewards for one in sent]).tolist() == list(range(count))
    assert np.concatenate([one.actions for one in sent]).tolist() == [number % 2 for number in range(count)]


def test_what_comes_while_a_chunk_is_packed_is_no_chunk_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """But where somebody waits for all of it (``at_once``)."""
    world = World(spaces.Box(0, 1e9, (2,), np.float32), 100)
    pack, meanwhile = world.packer.pack, [30, 0, 25]

    def slowly(*given: Any) -> Any:
        world.act(meanwhile.pop(0) if meanwhile else 0)
        return pack(*given)

    monkeypatch.setattr(world.packer, "pack", slowly)
    thread = world.start()
    thread.close()  # what it does is done here, when nobody else does anything
    for steps, rest in ((101, False), (70, False), (110, True)):
        world.act(steps)
        world.backlog.saw(world.episode, np.zeros(2, np.float32))
        thread._pack_all(force=False, rest=rest)
    assert [one.count for one in world.sent()] == [100, 100, 100, 35]
