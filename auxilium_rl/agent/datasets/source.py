"""A run whose experience is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auxilium_rl.client.errors import InvalidArgument, translated
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience
from auxilium_rl.wire.rows import AnySpace
from auxilium_rl.wire.spaces import space_of
from generated.auxilium.v1 import experience_pb2 as pb
from generated.auxilium.v1 import runs_pb2

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A run on agents.

    Attributes:
        mask_len: 0: there are no masks.
    """

    client: Client
    run_id: str
    algorithm: str
    observation: AnySpace
    action: AnySpace
    mask_len: int

    @classmethod
    def of(cls, client: Client, run_id: str) -> Source:
        """Of a run. Raises NotFound; InvalidArgument for one that is not on agents."""
        run = client.call(client.runs_stub.GetRun, runs_pb2.GetRunRequest(run_id=run_id))
        environment = run.environment
        if environment.uri != "agents":
            raise InvalidArgument.of("run_id", f"it is on '{environment.uri}'; agents pushed nothing")
        observation = space_of(environment.observation_space, "observation_space")
        action = space_of(environment.action_space, "action_space")
        return cls(client, run_id, run.algorithm, observation, action, environment.mask_len)

    @property
    def contract(self) -> str:
        """The spaces and the length of masks, as text."""
        return contract_of(self.observation, self.action, self.mask_len)

    @property
    def codec(self) -> ChunkCodec:
        """Of its chunks."""
        return ChunkCodec(self.observation, self.action, self.mask_len)

    def chunks(self) -> Iterator[tuple[pb.StoredChunk, Experience]]:
        """All that is stored, in the order in which it was; what comes meanwhile may be missing."""
        codec = self.codec
        with translated(self.client.address):
            for stored in self.client.experience_stub.ReadExperience(pb.ReadExperienceRequest(run_id=self.run_id)):
                yield stored, codec.decode(stored.chunk)
