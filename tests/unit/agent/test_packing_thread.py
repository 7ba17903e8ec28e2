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
from auxilium_rl.wire.chunks import ChunkCodec

SPACE, ACTION = spaces.Box(0, 1e9, (1000,), np.float32), spaces.Discrete(2)


@pytest.mark.parametrize(("failures", "beside"), [(0, False), (0, True), (2, True)])
def test_chunks_that_end_just_before_a_shelf_does(failures: int, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few steps that wait on it are put together elsewhere; those that are being packed lie there still."""
    eye, backlog, outbox = Eye(SPACE, ACTION), Backlog(0), Outbox(10**6, None)
    packer, most = Packer(eye.counted, eye.counted_action, 0, compress=None), eye._room - 3
    pack, left = packer.pack, [failures]

    def failing(*given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise MemoryError("no room for a chunk")
        return pack(*given)

    monkeypatch.setattr(packer, "pack", failing)
    thread = PackingThread(backlog, packer, outbox, most, 0.0, lambda: False)
    episode, count = backlog.begin(""), 5 * eye._room
    for number in range(count):
        step = eye.see(np.full(1000, number, np.float32), None)[-1]
        step.version, step.taken, step.log_prob = 1, number % 2, -1.0
        if backlog.add(episode, step) % most == 0 and beside:
            thread.wake()
        step.reward(number)
    backlog.end("", terminated=True, final=None, rewards_follow=False)
    for _ in range(failures + 1):
        thread.force()
    thread.close()
    outbox.close()
    assert thread.fault is None
    sent = [ChunkCodec(SPACE, ACTION, 0).decode(one.chunk) for one in outbox.outgoing(threading.Event())]
    seen = np.concatenate([np.asarray(one.observations) for one in sent])
    assert np.array_equal(seen, np.repeat(np.arange(count, dtype=np.float32)[:, None], 1000, axis=1))
    assert np.concatenate([one.rewards for one in sent]).tolist() == list(range(count))
    assert np.concatenate([one.actions for one in sent]).tolist() == [number % 2 for number in range(count)]
