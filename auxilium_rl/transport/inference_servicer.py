"""``inference.GRPCInferenceService``: policies for whoever speaks the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import grpc

from auxilium_rl import __version__
from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest, ModelNotReady
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.core.ports import ActionModel
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.inference.batches import ActRequest, FlatWish
from auxilium_rl.transport.errors import answers_with_status
from auxilium_rl.transport.tensors import PolicyTensors, Tensor, floats, given_tensors, put_tensor
from generated.inference import open_inference_pb2 as pb
from generated.inference import open_inference_pb2_grpc

__all__ = ["InferenceServicer"]

_PLATFORM = "onnxruntime_onnx"
_PARAMETERS = {"deterministic": "bool_param", "seed": "int64_param"}
_PAGE = 1000


class InferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """A model's name is a policy's (or a run's id), its version a number or an alias; empty: the newest.

    Args:
        ready: whether the server is.
        max_batch: rows that a request may have.
    """

    def __init__(
        self,
        orchestrator: TrainingOrchestrator,
        acting: ActingService,
        policies: PolicyManager,
        ready: Callable[[], bool],
        max_batch: int,
    ) -> None:
        self._orchestrator, self._acting, self._policies = orchestrator, acting, policies
        self._ready, self._max_batch = ready, max_batch
        self._known: WeakKeyDictionary[ActionModel, PolicyTensors] = WeakKeyDictionary()

    @answers_with_status
    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """It answers."""
        return pb.ServerLiveResponse(live=True)

    @answers_with_status
    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """As the health protocol's readiness has it."""
        return pb.ServerReadyResponse(ready=self._ready())

    @answers_with_status
    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Whether it can act; it is loaded for that."""
        try:
            self._acting.find(_name(request.name, request.version))
        except AuxiliumError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @answers_with_status
    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """What this is."""
        return pb.ServerMetadataResponse(
            name="auxilium-rl", version=__version__, extensions=["model_repository", "model_configuration"]
        )

    @answers_with_status
    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Names, datatypes and shapes of a policy's tensors."""
        tensors = self._tensors(_name(request.name, request.version))
        answer = pb.ModelMetadataResponse(name=request.name, platform=_PLATFORM)
        answer.versions.append(request.version or str(self._policies.resolve(request.name, "name").version))
        for told, listed in ((tensors.inputs, answer.inputs), (tensors.outputs, answer.outputs)):
            for tensor in told:
                listed.add(name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.shape])
        return answer

    @answers_with_status
    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """The same, as Triton's configuration has it."""
        tensors = self._tensors(_name(request.name, request.version))
        config = pb.ModelConfig(
            name=request.name, platform=_PLATFORM, backend="onnxruntime", max_batch_size=self._max_batch
        )
        for tensor in tensors.inputs:
            dims = tensor.shape or (1,)
            config.input.add(name=tensor.name, data_type=tensor.number, dims=dims, optional=tensor.optional)
        for tensor in tensors.outputs:
            config.output.add(name=tensor.name, data_type=tensor.number, dims=tensor.shape or (1,))
        return pb.ModelConfigResponse(config=config)

    @answers_with_status
    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Act."""
        name = _name(request.model_name, request.model_version)
        tensors = self._tensors(name)
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
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
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

    # -- the repository

    @answers_with_status
    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """Every version of every policy; READY: it is loaded. One that is not is loaded when it is asked for."""
        answer = pb.RepositoryIndexResponse()
        token = ""
        while True:
            page = self._policies.list(_PAGE, token, {})
            for policy in page.policies:
                for version in policy.versions:
                    loaded = self._acting.is_loaded(version)
                    if loaded or not request.ready:
                        answer.models.add(
                            name=policy.name,
                            version=str(version.version),
                            state="READY" if loaded else "UNAVAILABLE",
                            reason="" if loaded else "unloaded",
                        )
            token = page.next_page_token
            if not token:
                return answer

    @answers_with_status
    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a policy's newest version now. Versions cannot be brought along here: runs publish them."""
        if request.parameters:
            given = ", ".join(sorted(request.parameters))
            raise InvalidRequest.of("parameters", f"{given} given; none are accepted: policies are published by runs")
        self._acting.find(request.model_name)
        return pb.RepositoryModelLoadResponse()

    @answers_with_status
    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Give the memory of a policy's versions back. Whoever acts with one loads it again."""
        for version in self._policies.get(request.model_name).versions:
            self._acting.unload(version)
        return pb.RepositoryModelUnloadResponse()

    def _tensors(self, name: str) -> PolicyTensors:
        model = self._acting.find(name).model
        known = self._known.get(model)
        if known is None:
            if "native" not in model.description:
                raise ModelNotReady(f"'{name}' was made by an earlier release and acts through policy_trainer only")
            known = self._known[model] = PolicyTensors(model.description)
        return known


def _name(name: str, version: str) -> str:
    return f"{name}@{version}" if version else name


def _wanted(request: pb.ModelInferRequest, tensors: PolicyTensors) -> list[Tensor]:
    """The outputs of an answer: those that were asked for, or all that cost nothing."""
    known = {tensor.name: tensor for tensor in tensors.outputs}
    if not request.outputs:
        return [tensor for tensor in tensors.outputs if not tensor.optional]
    for output in request.outputs:
        if output.name not in known:
            raise InvalidRequest.of("outputs", f"'{output.name:.80}' given; {', '.join(known)} are accepted")
    return [known[output.name] for output in request.outputs]


def _wish(request: pb.ModelInferRequest, wanted: list[str]) -> FlatWish:
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
