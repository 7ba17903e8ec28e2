"""The calls that act, apart from all others: a server may answer them from several processes.

What they need of a server's life is a ``Presence``: whether it still answers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import grpc

from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.errors import InvalidRequest, ModelNotReady, StreamsExhausted
from auxilium_rl.core.policy_ports import ActionModel
from auxilium_rl.inference.batches import ActRequest, FlatWish
from auxilium_rl.transport.errors import abort, answers_to_the_last, answers_with_status, public_message, status_number
from auxilium_rl.transport.policy_convert import act_request, act_response
from auxilium_rl.transport.tensors import PolicyTensors, Tensor, floats, given_tensors, put_tensor
from generated import policy_trainer_pb2 as frozen
from generated.auxilium.v1 import policies_pb2 as pb
from generated.inference import open_inference_pb2 as oip

__all__ = ["FrozenActs", "ModelInfers", "PolicyActs", "Presence", "model_name"]

_PARAMETERS = {"deterministic": "bool_param", "seed": "int64_param"}


class Presence(Protocol):
    """Whether a server answers calls."""

    def check_here(self) -> None:
        """Raises Draining when it does not any more."""


class FrozenActs:
    """``Act`` of ``policy_trainer``."""

    def __init__(self, presence: Presence, acting: ActingService) -> None:
        self._orchestrator: Any = presence
        self._acting = acting

    @answers_to_the_last
    def Act(self, request: frozen.ActRequest, context: grpc.ServicerContext) -> frozen.ActResponse:
        """One deterministic action."""
        try:
            action = self._acting.act(
                request.run_id, request.observation, request.state, request.action_mask, request.keys
            )
            if action.values or action.state:
                return frozen.ActResponse(
                    action=action.number, action_values=action.values, state=action.state, success=True
                )
            return frozen.ActResponse(action=action.number, success=True)
        except Exception as error:  # noqa: BLE001 - this contract's errors are fields
            return frozen.ActResponse(error_message=public_message(error))


class PolicyActs:
    """``Act`` and ``ActStream`` of ``auxilium.v1.PolicyService``.

    Args:
        max_streams: calls of ActStream served at once.
    """

    def __init__(self, presence: Presence, acting: ActingService, max_streams: int) -> None:
        self._orchestrator: Any = presence
        self._acting, self._max_streams = acting, max_streams
        self._slots = threading.Semaphore(max_streams)

    @answers_with_status
    def Act(self, request: pb.ActRequest, context: grpc.ServicerContext) -> pb.ActResponse:
        """Actions for some observations."""
        return act_response(self._acting.act_rows(act_request(request, request.policy)), request.id)

    def ActStream(self, requests: Iterator[pb.ActRequest], context: grpc.ServicerContext) -> Iterator[pb.ActResponse]:
        """Actions for observations as they come."""
        if not self._slots.acquire(blocking=False):
            abort(context, StreamsExhausted(f"{self._max_streams} streams are open; ACT_MAX_STREAMS bounds them"))
        try:
            policy = ""
            for request in requests:
                policy = request.policy or policy
                yield self.answered(request, policy)
        finally:
            self._slots.release()

    def answered(self, request: pb.ActRequest, policy: str) -> pb.ActResponse:
        """The answer to a request among many, errors included."""
        try:
            self._orchestrator.check_here()
            return act_response(self._acting.act_rows(act_request(request, policy)), request.id)
        except Exception as error:  # noqa: BLE001 - one request's errors do not end the stream
            code, message, reason = status_number(error)
            return pb.ActResponse(id=request.id, error=pb.ActError(code=code, message=message, reason=reason))


class ModelInfers:
    """``ModelInfer`` of the Open Inference Protocol."""

    def __init__(self, presence: Presence, acting: ActingService) -> None:
        self._orchestrator: Any = presence
        self._acting = acting
        self._known: WeakKeyDictionary[ActionModel, PolicyTensors] = WeakKeyDictionary()

    @answers_with_status
    def ModelInfer(self, request: oip.ModelInferRequest, context: grpc.ServicerContext) -> oip.ModelInferResponse:
        """Act."""
        name = model_name(request.model_name, request.model_version)
        tensors = self.tensors(name)
        wanted = _wanted(request, tensors)
        count, given = given_tensors(request, tensors.inputs)
        asked = ActRequest(
            policy=name,
            count=count,
            slabs=[given[leaf.name] for leaf in tensors.leaves],
            masks=given.get("action_mask", b""),
            states=given.get("state", ()),
            wish=_wish(request, [tensor.name for tensor in wanted]),
        )
        result = self._acting.act_rows(asked)
        version = request.model_version if result.version < 0 else str(result.version)
        answer = oip.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
        acted = result.acted
        numbers = {"value": acted.values, "log_prob": acted.log_probs, "probabilities": acted.probabilities}
        for tensor in wanted:
            if tensor.name == "action":
                put_tensor(answer, tensor, count, result.slab)
            elif tensor.name == "state":
                put_tensor(answer, tensor, count, acted.states)
            else:
                values = numbers[tensor.name]
                assert values is not None
                put_tensor(answer, tensor, count, floats(values))
        return answer

    def tensors(self, name: str) -> PolicyTensors:
        """Those of the policy that a name means now. Raises as ``ActingService.find`` does."""
        model = self._acting.find(name).model
        known = self._known.get(model)
        if known is None:
            if "native" not in model.description:
                raise ModelNotReady(f"'{name}' was made by an earlier release and acts through policy_trainer only")
            known = self._known[model] = PolicyTensors(model.description)
        return known


def model_name(name: str, version: str) -> str:
    """What a model's name and version are for us."""
    return f"{name}@{version}" if version else name


def _wanted(request: oip.ModelInferRequest, tensors: PolicyTensors) -> list[Tensor]:
    """The outputs of an answer: those that were asked for, or all that cost nothing."""
    known = {tensor.name: tensor for tensor in tensors.outputs}
    if not request.outputs:
        return [tensor for tensor in tensors.outputs if not tensor.optional]
    for output in request.outputs:
        if output.name not in known:
            raise InvalidRequest.of("outputs", f"'{output.name:.80}' given; {', '.join(known)} are accepted")
    return [known[output.name] for output in request.outputs]


def _wish(request: oip.ModelInferRequest, wanted: list[str]) -> FlatWish:
    given = {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name not in _PARAMETERS or kind != _PARAMETERS[name]:
            raise InvalidRequest.of(
                "parameters", f"'{name:.80}' ({kind}) given; deterministic (bool) and seed (int64) are accepted"
            )
        given[name] = getattr(parameter, _PARAMETERS[name])
    if given.get("seed", 0) < 0:
        raise InvalidRequest.of("parameters", f"seed {given['seed']} given; 0 or more is accepted")
    return FlatWish(
        deterministic=given.get("deterministic", True),
        seed=given.get("seed", 0),
        with_values="value" in wanted,
        with_log_probs="log_prob" in wanted,
        with_probabilities="probabilities" in wanted,
    )
