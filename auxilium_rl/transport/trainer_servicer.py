"""``policy_trainer.PolicyTrainerService``: the frozen contract. Errors travel in the fields of its answers."""

from __future__ import annotations

import grpc

from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.dto import EnvironmentSpec
from auxilium_rl.core.requests import StartRequest
from auxilium_rl.core.states import TERMINAL
from auxilium_rl.core.training import TrainingOrchestrator
from auxilium_rl.transport.act_servicers import FrozenActs
from auxilium_rl.transport.errors import answers_to_the_last, public_message
from generated import policy_trainer_pb2 as pb
from generated import policy_trainer_pb2_grpc

__all__ = ["TrainerServicer", "idempotency_key_of"]


class TrainerServicer(FrozenActs, policy_trainer_pb2_grpc.PolicyTrainerServiceServicer):
    """Answers today's clients."""

    def __init__(self, orchestrator: TrainingOrchestrator, acting: ActingService) -> None:
        super().__init__(orchestrator, acting)
        self._orchestrator = orchestrator

    @answers_to_the_last
    def NegotiateEnvironment(
        self, request: pb.NegotiateEnvironmentRequest, context: grpc.ServicerContext
    ) -> pb.NegotiateEnvironmentResponse:
        """Remember a spec and echo it."""
        spec = request.spec
        try:
            self._orchestrator.negotiate(
                request.experiment_id,
                EnvironmentSpec(
                    spec.observation_dim,
                    spec.action_dim,
                    spec.sight_range,
                    tuple(spec.observation_feature_names),
                    spec.max_steps,
                ),
            )
        except Exception as error:  # noqa: BLE001 - this contract's errors are fields
            return pb.NegotiateEnvironmentResponse(accepted=False, message=public_message(error), echoed_spec=spec)
        return pb.NegotiateEnvironmentResponse(accepted=True, message="Environment accepted", echoed_spec=spec)

    @answers_to_the_last
    def StartTrainingPPO(self, request: pb.TrainingRequest, context: grpc.ServicerContext) -> pb.TrainingResponse:
        """Start a PPO run."""
        return self._start("ppo", request, context)

    @answers_to_the_last
    def StartTrainingA2C(self, request: pb.TrainingRequest, context: grpc.ServicerContext) -> pb.TrainingResponse:
        """Start an A2C run."""
        return self._start("a2c", request, context)

    @answers_to_the_last
    def StartTrainingDQN(self, request: pb.TrainingRequest, context: grpc.ServicerContext) -> pb.TrainingResponse:
        """Start a DQN run."""
        return self._start("dqn", request, context)

    def _start(self, algorithm: str, request: pb.TrainingRequest, context: grpc.ServicerContext) -> pb.TrainingResponse:
        start = StartRequest(
            algorithm=algorithm,
            experiment_id=request.experiment_id,
            total_timesteps=request.total_timesteps,
            seed=request.seed,
            hyperparameters=dict(request.hyperparameters),
            model_output_path=request.model_output_path,
            text=True,
        )
        try:
            run = self._orchestrator.submit(start, idempotency_key_of(context))
        except Exception as error:  # noqa: BLE001 - this contract's errors are fields
            return pb.TrainingResponse(status=pb.FAILED, message=public_message(error))
        message = f"Training started successfully for {algorithm.upper()}"
        if "gym_ids" not in request.hyperparameters:
            message += f" (no gym_ids were given: training on '{run.spec.environment.uri}')"
        return pb.TrainingResponse(status=pb.STARTED, message=message, run_id=run.run_id)

    @answers_to_the_last
    def GetTrainingStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        """How far a run is."""
        try:
            run = self._orchestrator.registry.get(request.run_id)
        except Exception as error:  # noqa: BLE001 - this contract's errors are fields
            return pb.StatusResponse(error_message=public_message(error))
        newest = run.newest_checkpoint
        return pb.StatusResponse(
            timesteps_done=run.timesteps_done,
            is_done=run.state in TERMINAL,
            last_checkpoint_path=newest.model_path if newest and newest.timesteps else "",
            error_message=run.error_message,
        )


def idempotency_key_of(context: grpc.ServicerContext) -> str:
    """The call's ``idempotency-key`` metadata; empty when there is none."""
    for key, value in context.invocation_metadata():
        if key == "idempotency-key":
            return str(value)
    return ""
