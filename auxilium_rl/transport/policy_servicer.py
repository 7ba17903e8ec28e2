"""``auxilium.v1.PolicyService``: policies, and acting with them. Errors are status codes with details."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest, TransferMoved
from auxilium_rl.core.evaluations import EvaluationRequest, Evaluations
from auxilium_rl.core.policies import Evaluation
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.transport.act_lane import ActLane
from auxilium_rl.transport.act_servicers import PolicyActs
from auxilium_rl.transport.convert import source_of
from auxilium_rl.transport.errors import abort, answers_with_status
from auxilium_rl.transport.policy_convert import (
    criterion_of,
    episode_message,
    evaluation_message,
    policy_message,
    version_message,
)
from auxilium_rl.transport.policy_payloads import PayloadCache
from generated.auxilium.v1 import policies_pb2 as pb
from generated.auxilium.v1 import policies_pb2_grpc

__all__ = ["PolicyServicer"]

_MAX_PAGE = 1000
_CHUNK = 1 << 16


class PolicyServicer(PolicyActs, policies_pb2_grpc.PolicyServiceServicer):
    """Answers whoever acts, and whoever takes policies away.

    Args:
        max_streams: calls of ActStream served at once; as many fast lanes.
        fast_lane: ``unix``, ``tcp`` or ``off``.
        max_message: bytes of the largest message on it.
    """

    def __init__(
        self,
        orchestrator: TrainingOrchestrator,
        acting: ActingService,
        policies: PolicyManager,
        evaluations: Evaluations,
        max_streams: int,
        fast_lane: str,
        max_message: int,
    ) -> None:
        super().__init__(orchestrator, acting, max_streams)
        self._policies, self._evaluations = policies, evaluations
        self._payloads = PayloadCache(policies)
        self._lane = ActLane(self.answered, fast_lane, max_streams, max_message)

    def close(self) -> None:
        """Hang up the fast lanes."""
        self._lane.close()

    # -- names and versions

    @answers_with_status
    def ListPolicies(self, request: pb.ListPoliciesRequest, context: grpc.ServicerContext) -> pb.ListPoliciesResponse:
        """A page of policies."""
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidRequest.of(
                "page_size", f"{request.page_size} given; 1 to {_MAX_PAGE}, or 0 for 50, is accepted"
            )
        page = self._policies.list(request.page_size or 50, request.page_token, dict(request.tags))
        return pb.ListPoliciesResponse(
            policies=[policy_message(policy) for policy in page.policies], next_page_token=page.next_page_token
        )

    @answers_with_status
    def GetPolicy(self, request: pb.GetPolicyRequest, context: grpc.ServicerContext) -> pb.Policy:
        """One policy."""
        return policy_message(self._policies.get(request.name))

    @answers_with_status
    def GetVersion(self, request: pb.GetVersionRequest, context: grpc.ServicerContext) -> pb.PolicyVersion:
        """One version."""
        return version_message(self._policies.with_evaluations(self._policies.resolve(request.policy)))

    @answers_with_status
    def UpdatePolicy(self, request: pb.UpdatePolicyRequest, context: grpc.ServicerContext) -> pb.Policy:
        """Tags, notes, criterion."""
        changed = self._policies.update(
            request.name,
            dict(request.set_tags),
            list(request.remove_tags),
            request.notes if request.HasField("notes") else None,
            criterion_of(request.criterion) if request.HasField("criterion") else None,
        )
        return policy_message(changed)

    @answers_with_status
    def PublishVersion(self, request: pb.PublishVersionRequest, context: grpc.ServicerContext) -> pb.PolicyVersion:
        """A checkpoint becomes a version."""
        timesteps = request.timesteps if request.HasField("timesteps") else None
        return version_message(self._policies.publish(request.run_id, timesteps, request.name))

    @answers_with_status
    def SetAlias(self, request: pb.SetAliasRequest, context: grpc.ServicerContext) -> pb.Policy:
        """Move an alias."""
        return policy_message(self._policies.set_alias(request.name, request.alias, request.version))

    @answers_with_status
    def DeleteAlias(self, request: pb.DeleteAliasRequest, context: grpc.ServicerContext) -> pb.Policy:
        """Forget an alias."""
        return policy_message(self._policies.delete_alias(request.name, request.alias))

    @answers_with_status
    def DeleteVersion(self, request: pb.DeleteVersionRequest, context: grpc.ServicerContext) -> pb.Policy:
        """Forget a version."""
        return policy_message(self._policies.delete_version(request.name, request.version))

    @answers_with_status
    def DeletePolicy(self, request: pb.DeletePolicyRequest, context: grpc.ServicerContext) -> pb.DeletePolicyResponse:
        """Forget a policy."""
        return pb.DeletePolicyResponse(bytes_freed=self._policies.delete(request.name))

    # -- acting on this machine

    @answers_with_status
    def OpenFastLane(self, request: pb.OpenFastLaneRequest, context: grpc.ServicerContext) -> pb.FastLane:
        """A socket for a caller of this machine."""
        address, token = self._lane.offer(context.peer())
        return pb.FastLane(address=address, token=token)

    # -- evaluation

    def Evaluate(self, request: pb.EvaluateRequest, context: grpc.ServicerContext) -> Iterator[pb.EvaluateEvent]:
        """Play episodes."""
        alive = _alive(context, self._evaluations.gone)
        wish = EvaluationRequest(
            request.policy,
            source_of(request.environment) if request.HasField("environment") else None,
            request.episodes,
            request.deterministic if request.HasField("deterministic") else True,
            request.seed if request.HasField("seed") else None,
            request.max_steps,
        )
        done = 0
        try:
            for told in self._evaluations.evaluate(wish, alive):
                if isinstance(told, Evaluation):
                    yield pb.EvaluateEvent(done=done, evaluation=evaluation_message(told))
                else:
                    done += 1
                    yield pb.EvaluateEvent(done=done, episode=episode_message(told))
        except AuxiliumError as error:
            abort(context, error)

    # -- taking away

    def WatchPolicy(self, request: pb.WatchPolicyRequest, context: grpc.ServicerContext) -> Iterator[pb.PolicyUpdate]:
        """The newest version, again and again."""
        if request.format not in pb.WatchPolicyRequest.Format.values():
            accepted = ", ".join(pb.WatchPolicyRequest.Format.keys())
            abort(context, InvalidRequest.of("format", f"{request.format} given; {accepted} are accepted"))
        alive = _alive(context, lambda _: self._policies.wake())
        have, tensors = request.have_sha256, request.format == pb.WatchPolicyRequest.FORMAT_SAFETENSORS
        try:
            for version in self._policies.follow(request.policy, alive):
                update = pb.PolicyUpdate(version=version_message(version))
                if request.with_payload:
                    update.description, payload = self._payloads.of(version, have, tensors=tensors)
                    update.graph.CopyFrom(payload)
                    have = version.sha256
                yield update
        except AuxiliumError as error:
            abort(context, error)

    def DownloadPolicy(
        self, request: pb.DownloadPolicyRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.PolicyChunk]:
        """A file in chunks."""
        try:
            version = self._policies.resolve(request.policy)
            file = version.file(request.file or "policy.onnx")
            if request.sha256 and request.sha256 != file.sha256:
                raise TransferMoved(
                    f"'{request.policy}' means {version.name}@{version.version} now, whose {file.name} has the sha256 "
                    f"{file.sha256}; {request.sha256:.80} was begun: begin again, or name the version"
                )
            if not 0 <= request.offset <= file.size:
                raise InvalidRequest.of("offset", f"{request.offset} given; 0 to {file.size} is accepted")
            data = self._policies.read(version, file.name)
        except AuxiliumError as error:
            abort(context, error)
        for start in range(request.offset, max(len(data), request.offset + 1), _CHUNK):
            yield pb.PolicyChunk(
                data=data[start : start + _CHUNK],
                offset=start,
                size=len(data),
                sha256=file.sha256,
                version=version.version,
            )


def _alive(context: grpc.ServicerContext, gone: Callable[[threading.Event], Any]) -> threading.Event:
    """An event that is cleared when the caller goes; ``gone`` is called then."""
    alive = threading.Event()
    alive.set()

    def left() -> None:
        alive.clear()
        gone(alive)

    if not context.add_callback(left):
        alive.clear()
    return alive
