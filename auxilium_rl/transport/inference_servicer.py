"""``inference.GRPCInferenceService``: policies for whoever speaks the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from auxilium_rl import __version__
from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.errors import AuxiliumError, InvalidRequest
from auxilium_rl.core.policy_manager import PolicyManager
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.transport.act_servicers import ModelInfers, model_name
from auxilium_rl.transport.errors import answers_with_status
from generated.inference import open_inference_pb2 as pb
from generated.inference import open_inference_pb2_grpc

__all__ = ["InferenceServicer"]

_PLATFORM = "onnxruntime_onnx"
_PAGE = 1000


class InferenceServicer(ModelInfers, open_inference_pb2_grpc.GRPCInferenceServiceServicer):
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
        super().__init__(orchestrator, acting)
        self._policies, self._ready, self._max_batch = policies, ready, max_batch

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
            self._acting.find(model_name(request.name, request.version))
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
        tensors = self.tensors(model_name(request.name, request.version))
        answer = pb.ModelMetadataResponse(name=request.name, platform=_PLATFORM)
        answer.versions.append(request.version or str(self._policies.resolve(request.name, "name").version))
        for told, listed in ((tensors.inputs, answer.inputs), (tensors.outputs, answer.outputs)):
            for tensor in told:
                listed.add(name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.shape])
        return answer

    @answers_with_status
    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """The same, as Triton's configuration has it."""
        tensors = self.tensors(model_name(request.name, request.version))
        config = pb.ModelConfig(
            name=request.name, platform=_PLATFORM, backend="onnxruntime", max_batch_size=self._max_batch
        )
        for tensor in tensors.inputs:
            dims = tensor.shape or (1,)
            config.input.add(name=tensor.name, data_type=tensor.number, dims=dims, optional=tensor.optional)
        for tensor in tensors.outputs:
            config.output.add(name=tensor.name, data_type=tensor.number, dims=tensor.shape or (1,))
        return pb.ModelConfigResponse(config=config)

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
