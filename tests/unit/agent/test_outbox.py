"""What is on its way stays somewhere, also when a disk does not work."""

from __future__ import annotations

import shutil
from pathlib import Path

from auxilium_rl.agent.outbox import Outbox
from generated.auxilium.v1 import experience_pb2 as pb


def chunk(seq: int, count: int) -> pb.PushRequest:
    return pb.PushRequest(chunk=pb.Chunk(seq=seq, count=count))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    folder.mkdir()
    box = Outbox(10, folder)
    box.put(chunk(1, 10))
    shutil.rmtree(folder)
    box.put(chunk(2, 5))
    assert (box.steps, box.spilled) == (15, 0)
    assert box.is_full, "whoever acts must wait now"
    assert box.save() == 0
    folder.mkdir()
    box.put(chunk(3, 7))
    assert box.spilled == 7
    assert not box.is_full
    assert box.save() == 22
    again = Outbox(10, folder)
    assert again.load() == 22
    assert (again.oldest, again.next_seq) == (1, 4)
