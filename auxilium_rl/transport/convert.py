"""Between the domain's values and the messages of ``auxilium.v1``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf import json_format, struct_pb2

from auxilium_rl.core.algorithm_info import AlgorithmInfo
from auxilium_rl.core.attachments import AttachedInfo
from auxilium_rl.core.dto import (
    Checkpoint,
    EnvironmentSource,
    EvaluationPlan,
    ExperiencePlan,
    Hindsight,
    Limits,
    MetricPoint,
    Normalize,
    Run,
)
from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.housekeeping import Garbage
from auxilium_rl.core.lineage import Changes
from auxilium_rl.core.publishing import policy_of
from auxilium_rl.core.requests import StartRequest
from auxilium_rl.core.states import ACTIVE, RunState
from auxilium_rl.transport.timestamps import timestamp
from auxilium_rl.wire.agreement import contract_of, spaces_of
from auxilium_rl.wire.spaces import UnsupportedSpace, space_message, space_of
from generated.auxilium.v1 import runs_pb2 as pb

__all__ = [
    "algorithm_message",
    "changes_of",
    "garbage_message",
    "metric_message",
    "run_message",
    "source_of",
    "start_request",
    "states_of",
]


def start_request(message: pb.StartRunRequest) -> StartRequest:
    """What a StartRun asks for."""
    return StartRequest(
        algorithm=message.algorithm,
        experiment_id=message.experiment_id,
        total_timesteps=message.total_timesteps,
        seed=message.seed if message.HasField("seed") else None,
        hyperparameters=_values(message.hyperparameters),
        model_output_path=message.model_output_path,
        environment=source_of(message.environment),
        checkpoint_freq=message.checkpoint_freq,
        policy=message.policy,
        normalize=_normalize(message.normalize) if message.HasField("normalize") else None,
        frame_stack=message.frame_stack,
        limits=Limits(message.limits.memory_mb, message.limits.seconds),
        policy_name=message.policy_name,
        publish_checkpoints=message.publish_checkpoints,
        evaluation=_plan(message.evaluation) if message.HasField("evaluation") else None,
        experience=_experience(message.experience) if message.HasField("experience") else None,
    )


def changes_of(message: pb.RetryRunRequest | pb.ExtendRunRequest | pb.CloneRunRequest) -> Changes:
    """What shall be otherwise in a run that is made of another."""
    environment = source_of(message.environment) if message.HasField("environment") else None
    if not isinstance(message, pb.CloneRunRequest):
        return Changes(environment=environment)
    return Changes(
        experiment_id=message.experiment_id,
        total_timesteps=message.total_timesteps,
        seed=message.seed if message.HasField("seed") else None,
        hyperparameters=_values(message.hyperparameters),
        environment=environment,
        model_output_path=message.model_output_path,
    )


def _plan(message: pb.EvaluationPlan) -> EvaluationPlan:
    return EvaluationPlan(message.freq, message.episodes, source_of(message.environment))


def _plan_message(plan: EvaluationPlan | None) -> pb.EvaluationPlan | None:
    if plan is None:
        return None
    return pb.EvaluationPlan(freq=plan.freq, episodes=plan.episodes, environment=_source_message(plan.environment))


def _source_message(env: EnvironmentSource) -> pb.EnvironmentSource:
    told = asdict(env)
    contract = told.pop("contract")
    message = pb.EnvironmentSource(**told)
    if contract:
        observation, action, message.mask_len = spaces_of(contract)
        message.observation_space.CopyFrom(space_message(observation))
        message.action_space.CopyFrom(space_message(action))
    return message


def source_of(env: pb.EnvironmentSource) -> EnvironmentSource:
    """Where a caller says that lanes are. Raises InvalidRequest for spaces that cannot travel."""
    return EnvironmentSource(
        env.uri,
        env.lanes,
        tuple(env.gym_ids),
        env.observation_dim,
        env.action_dim,
        env.max_steps,
        env.min_lanes,
        _contract(env),
    )


def _contract(env: pb.EnvironmentSource) -> str:
    if not (env.HasField("observation_space") or env.HasField("action_space") or env.mask_len):
        return ""
    try:
        observation = space_of(env.observation_space, "environment.observation_space")
        action = space_of(env.action_space, "environment.action_space")
        return contract_of(observation, action, env.mask_len)
    except UnsupportedSpace as refused:
        where, _, why = str(refused).partition(": ")
        raise InvalidRequest.of(where if why else "environment", why or str(refused)) from refused


def _experience_message(plan: ExperiencePlan | None) -> pb.ExperiencePlan | None:
    if plan is None:
        return None
    stale = None if plan.max_staleness < 0 else plan.max_staleness
    return pb.ExperiencePlan(
        synchronous=plan.synchronous,
        max_staleness=stale,
        publish_seconds=plan.publish_seconds,
        buffers=dict(plan.buffers),
        hindsight=None if plan.hindsight is None else pb.Hindsight(**asdict(plan.hindsight)),
    )


def _experience(message: pb.ExperiencePlan) -> ExperiencePlan:
    stale = message.max_staleness if message.HasField("max_staleness") else -1
    if message.HasField("max_staleness") and stale < 0:
        raise InvalidRequest.of("experience.max_staleness", f"{stale} given; 0 or more versions are accepted")
    given, usual = message.hindsight, Hindsight()
    hindsight = Hindsight(
        given.n_sampled_goal or usual.n_sampled_goal,
        given.goal_selection_strategy or usual.goal_selection_strategy,
        given.reward or usual.reward,
        given.distance_threshold or usual.distance_threshold,
    )
    return ExperiencePlan(
        message.synchronous,
        stale,
        message.publish_seconds,
        dict(message.buffers),
        hindsight if message.HasField("hindsight") else None,
    )


def _normalize(message: pb.Normalize) -> Normalize:
    return Normalize(
        message.norm_obs,
        message.norm_reward,
        message.clip_obs or 10.0,
        message.clip_reward or 10.0,
        tuple(message.norm_obs_keys),
    )


def _normalize_message(wish: Normalize | None) -> pb.Normalize | None:
    return None if wish is None else pb.Normalize(**asdict(wish))


def _values(given: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as plain values. Raises InvalidRequest for numbers that JSON does not have."""
    try:
        return json_format.MessageToDict(given)
    except ValueError as error:
        raise InvalidRequest.of("hyperparameters", f"{error}; finite numbers are accepted") from None


def states_of(values: list[int]) -> list[RunState]:
    """States of a filter. Raises InvalidRequest for a number that is none."""
    known: dict[int, str] = {number: name.removeprefix("RUN_STATE_") for name, number in pb.RunState.items() if number}
    for value in values:
        if value not in known:
            raise InvalidRequest.of("states", f"{value} given; {', '.join(known.values())} are accepted")
    return [RunState(known[value]) for value in values]


def run_message(run: Run, tensorboard_dir: str = "", simulators: Sequence[AttachedInfo] = ()) -> pb.Run:
    """A run as clients see it."""
    spec = run.spec
    active = run.state in ACTIVE
    hyperparameters = struct_pb2.Struct()
    hyperparameters.update(dict(spec.hyperparameters))
    return pb.Run(
        run_id=run.run_id,
        experiment_id=spec.experiment_id,
        algorithm=spec.algorithm,
        state=pb.RunState.Value(f"RUN_STATE_{run.state.value}"),
        error_message=run.error_message,
        state_reason=run.state_reason,
        timesteps_done=run.timesteps_done,
        total_timesteps=spec.total_timesteps,
        seed=spec.seed,
        environment=_source_message(spec.environment),
        policy=spec.policy,
        normalize=_normalize_message(spec.normalize),
        frame_stack=spec.frame_stack,
        hyperparameters=hyperparameters,
        model_output_path=spec.model_output_path,
        exported_path=run.exported_path,
        attempt=run.attempt,
        created_at=timestamp(run.created_at),
        started_at=timestamp(run.started_at) if run.started_at else None,
        finished_at=timestamp(run.finished_at) if run.finished_at else None,
        checkpoints=[_checkpoint(c) for c in run.checkpoints],
        log_tail=run.log_tail,
        steps_per_second=run.steps_per_second if active else 0.0,
        seconds_left=run.seconds_left if active else 0.0,
        engine=run.engine,
        queue_position=run.queue_position,
        tensorboard_dir=tensorboard_dir,
        simulators=[_simulator(info) for info in simulators],
        parent_run_id=spec.parent.run_id if spec.parent else "",
        parent_kind=spec.parent.kind if spec.parent else "",
        limits=pb.Limits(**asdict(spec.limits)) if any(asdict(spec.limits).values()) else None,
        policy_name=policy_of(run),
        publish_checkpoints=spec.publish_checkpoints,
        evaluation=_plan_message(spec.evaluation),
        experience=_experience_message(spec.experience),
    )


def metric_message(point: MetricPoint) -> pb.Metric:
    """One logged value."""
    return pb.Metric(id=point.id, key=point.key, step=point.step, value=point.value, time=timestamp(point.time))


def algorithm_message(info: AlgorithmInfo) -> pb.Algorithm:
    """An algorithm with its hyperparameters."""
    return pb.Algorithm(
        name=info.name,
        title=info.title,
        hyperparameters=[
            pb.Hyperparameter(
                name=h.name,
                type=h.type,
                default=json_format.ParseDict(h.default, struct_pb2.Value()),
                meaning=h.meaning,
                accepted=h.accepted,
            )
            for h in info.hyperparameters
        ],
    )


def garbage_message(found: Garbage) -> pb.Garbage:
    """Something that was removed, or would be."""
    return pb.Garbage(**asdict(found))


def _checkpoint(checkpoint: Checkpoint) -> pb.Checkpoint:
    return pb.Checkpoint(
        timesteps=checkpoint.timesteps,
        path=checkpoint.model_path,
        sha256=checkpoint.sha256,
        created_at=timestamp(checkpoint.created_at),
        kind=checkpoint.kind,
        corrupt=checkpoint.corrupt,
        score=checkpoint.score,
    )


def _simulator(info: AttachedInfo) -> pb.AttachedSimulator:
    return pb.AttachedSimulator(**{**asdict(info), "since": timestamp(info.since)})
