"""``auxilium.v1.ExperienceService``: what agents push. Errors are status codes with details."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from auxilium_rl.core.errors import AuxiliumError, InvalidRequest, PolicyNotFound
from auxilium_rl.core.experience.hub import ExperienceHub
from auxilium_rl.core.experience.intake import AgentStream, Receipt
from auxilium_rl.core.experience.ports import AgentInfo
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.transport.errors import abort, answers_with_status
from auxilium_rl.transport.timestamps import timestamp
from auxilium_rl.wire.agreement import contract_of
from auxilium_rl.wire.spaces import UnsupportedSpace, space_of
from generated.auxilium.v1 import experience_pb2 as pb
from generated.auxilium.v1 import experience_pb2_grpc, runs_pb2

__all__ = ["ExperienceServicer"]


class ExperienceServicer(experience_pb2_grpc.ExperienceServiceServicer):
    """Answers agents.

    Args:
        max_message: bytes of the largest chunk.
    """

    def __init__(
        self, orchestrator: TrainingOrchestrator, hub: ExperienceHub, policies: PolicyManager, max_message: int
    ) -> None:
        self._orchestrator, self._hub, self._policies = orchestrator, hub, policies
        self._max_message = max_message

    def Push(self, requests: Iterator[pb.PushRequest], context: grpc.ServicerContext) -> Iterator[pb.PushResponse]:
        """Take an agent's experience for as long as it is connected."""
        try:
            stream = self._joined(requests)
        except AuxiliumError as error:
            abort(context, error)
        pump = threading.Thread(target=self._pump, args=(requests, stream), name="agent-push", daemon=True)
        # Whoever goes without a word is noticed here; gRPC's own thread must not wait for a database.
        if not context.add_callback(stream.end):
            stream.end()
        try:
            welcome = stream.welcome
            yield pb.PushResponse(
                welcome=pb.Welcome(
                    durable_seq=welcome.durable_seq,
                    policy=welcome.policy,
                    on_policy=welcome.on_policy,
                    synchronous=welcome.synchronous,
                    quota=welcome.quota,
                    max_chunk_bytes=self._max_message,
                )
            )
            pump.start()
            for receipt in stream.receipts():
                yield from _answers(receipt)
        except Exception as error:  # noqa: BLE001 - also what befell the other thread
            abort(context, error)
        finally:
            self._hub.leave(stream)

    def _joined(self, requests: Iterator[pb.PushRequest]) -> AgentStream:
        self._orchestrator.check_here()
        first = next(requests, None)
        if first is None or not first.HasField("join"):
            given = "nothing" if first is None else first.WhichOneof("kind") or "an empty message"
            raise InvalidRequest.of("join", f"{given} came first; an agent says who it is before anything else")
        join = first.join
        try:
            contract = contract_of(
                space_of(join.observation, "join.observation"), space_of(join.action, "join.action"), join.mask_len
            )
        except UnsupportedSpace as refused:
            where, _, why = str(refused).partition(": ")
            raise InvalidRequest.of(where, why) from refused
        return self._hub.join(join.run_id, join.agent_id, join.incarnation, contract, join.next_seq, join.buffer)

    @staticmethod
    def _pump(requests: Iterator[pb.PushRequest], stream: AgentStream) -> None:
        why: Exception | None = None
        try:
            for request in requests:
                if not request.HasField("chunk"):
                    raise InvalidRequest.of("chunk", f"{request.WhichOneof('kind')} came; chunks are accepted now")
                stream.take(request.chunk)
        except grpc.RpcError:
            pass  # the agent has gone
        except Exception as error:  # noqa: BLE001 - the other thread tells the agent
            why = error
        stream.close_after_all(why)

    def ReadExperience(
        self, request: pb.ReadExperienceRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StoredChunk]:
        """All that is stored of a run."""
        try:
            self._orchestrator.check_here()
            for record in self._hub.stored(request.run_id):
                chunk = pb.Chunk.FromString(record.chunk)
                yield pb.StoredChunk(agent_id=record.agent_id, incarnation=record.incarnation, chunk=chunk)
        except AuxiliumError as error:
            abort(context, error)

    @answers_with_status
    def ListAgents(self, request: pb.ListAgentsRequest, context: grpc.ServicerContext) -> pb.ListAgentsResponse:
        """Who pushes, or pushed."""
        found = list(self._hub.agents(request.run_id))
        try:
            newest = self._policies.resolve(request.run_id).version
        except PolicyNotFound:  # it has published nothing yet
            newest = -1
        return pb.ListAgentsResponse(agents=[_agent(info, newest) for info in found])


def _answers(receipt: Receipt) -> Iterator[pb.PushResponse]:
    rejected = [pb.Rejected(**one._asdict()) for one in receipt.rejected]
    yield pb.PushResponse(receipt=pb.Receipt(durable_seq=receipt.durable_seq, rejected=rejected))
    if receipt.ended:
        state = runs_pb2.RunState.Value(f"RUN_STATE_{receipt.ended}")
        yield pb.PushResponse(ended=pb.RunEnded(state=state))


def _agent(info: AgentInfo, newest: int) -> pb.Agent:
    stats = info.stats
    return pb.Agent(
        agent_id=info.agent_id,
        incarnation=info.incarnation,
        connected=info.connected,
        joined_at=timestamp(info.joined_at),
        last_seen=timestamp(info.last_seen),
        steps=stats.steps,
        episodes=stats.episodes,
        mean_return=stats.mean_return or 0.0,
        version=stats.version,
        newest_version=newest,
        rejected=stats.rejected,
    )
