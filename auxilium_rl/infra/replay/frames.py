"""How the server and learners find replay shards and talk to them; ``replay.proto`` says what."""

from __future__ import annotations

from typing import NamedTuple

from auxilium_rl.core.errors import ModelCorrupt, StoreUnavailable
from auxilium_rl.core.experience.layout import Layout
from auxilium_rl.wire.frames import MAX_FRAME, FrameError, FrameSocket, connect_lane
from generated.auxilium.v1 import replay_pb2 as pb

__all__ = ["PartRefused", "Shards", "frame_limit", "opening", "part_folder", "reply_of"]

_CONNECT = 5.0


class PartRefused(StoreUnavailable):
    """A shard could not open a part, or store something; another try may help."""


class Shards(NamedTuple):
    """The processes: part ``k`` of every run is with number ``k`` modulo how many there are.

    Attributes:
        folder: of their sockets.
        limit: bytes of the largest chunk.
    """

    folder: str
    processes: int
    limit: int

    def connect(self, part: int) -> FrameSocket:
        """A connection for one part. Raises OSError."""
        return self.connect_to(part % self.processes)

    def connect_to(self, number: int) -> FrameSocket:
        """A connection to one process. Raises OSError."""
        lane = connect_lane(f"unix://{self.folder}/{number}", _CONNECT, limit=frame_limit(self.limit))
        lane.settimeout(None)
        return lane


def part_folder(part: int) -> str:
    """The name of a part's folder within its run's."""
    return f"shard-{part:03d}"


def frame_limit(chunk: int) -> int:
    """Bytes of the largest frame where so large a chunk may come: as large a batch, too."""
    return max(2 * chunk, MAX_FRAME)


def opening(layout: Layout, part: int, use: pb.PartUse.ValueType, since: int = 0) -> bytes:
    """The first frame of a connection."""
    return pb.ShardRequest(
        open=pb.OpenPart(
            use=use,
            run_id=layout.run_id,
            part=part,
            parts=layout.parts,
            contract=layout.contract,
            capacity=layout.capacity_of(part),
            ancestors=layout.ancestors,
            since=since,
        )
    ).SerializeToString()


def reply_of(lane: FrameSocket) -> pb.ShardReply:
    """The next answer. Raises OSError, PartRefused; ModelCorrupt: what the part holds is damaged."""
    data = lane.receive()
    if not data:
        raise FrameError("the shard hung up")
    reply = pb.ShardReply.FromString(data)
    if reply.HasField("refused"):
        refused = reply.refused
        raise ModelCorrupt(refused.reason) if refused.lasting else PartRefused(refused.reason)
    return reply
