"""Between the values of policies and the messages of ``auxilium.v1.PolicyService``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

from auxilium_rl.core.policies import Criterion, Episode, Evaluation, Policy, PolicyVersion
from auxilium_rl.inference.batches import MODE, ActRequest, ActResult, FlatWish
from auxilium_rl.transport.timestamps import timestamp
from generated.auxilium.v1 import policies_pb2 as pb

__all__ = [
    "act_request",
    "act_response",
    "criterion_of",
    "episode_message",
    "evaluation_message",
    "policy_message",
    "version_message",
]


def policy_message(policy: Policy) -> pb.Policy:
    """A policy as clients see it."""
    return pb.Policy(
        name=policy.name,
        aliases=dict(policy.aliases),
        versions=[version_message(version) for version in policy.versions],
        tags=dict(policy.tags),
        notes=policy.notes,
        criterion=pb.Criterion(key=policy.criterion.key, minimize=policy.criterion.minimize),
        created_at=timestamp(policy.created_at),
        updated_at=timestamp(policy.updated_at),
    )


def version_message(version: PolicyVersion) -> pb.PolicyVersion:
    """A version as clients see it."""
    return pb.PolicyVersion(
        name=version.name,
        version=version.version,
        run_id=version.run_id,
        algorithm=version.algorithm,
        timesteps=version.timesteps,
        metrics=_struct(version.metrics),
        contract_hash=version.contract_hash,
        sha256=version.sha256,
        created_at=timestamp(version.created_at),
        files=[pb.PolicyFile(name=file.name, size=file.size, sha256=file.sha256) for file in version.files],
        evaluations=[evaluation_message(evaluation) for evaluation in version.evaluations],
        aliases=version.aliases,
    )


def evaluation_message(evaluation: Evaluation) -> pb.Evaluation:
    """An evaluation as clients see it."""
    return pb.Evaluation(
        id=evaluation.id,
        environment=evaluation.environment,
        deterministic=evaluation.deterministic,
        seed=evaluation.seed,
        episodes=[episode_message(episode) for episode in evaluation.episodes],
        mean_return=evaluation.mean_return,
        std_return=evaluation.std_return,
        mean_length=evaluation.mean_length,
        success_rate=evaluation.success_rate,
        kpis=dict(evaluation.kpis),
        created_at=timestamp(evaluation.created_at),
        timesteps=evaluation.timesteps,
    )


def episode_message(episode: Episode) -> pb.Episode:
    """An episode as clients see it."""
    message = pb.Episode(length=episode.length, success=episode.success, kpis=dict(episode.kpis))
    setattr(message, "return", episode.total)  # a word of Python's own
    return message


def criterion_of(message: pb.Criterion) -> Criterion:
    """By what a caller wants ``best`` to be chosen."""
    return Criterion(message.key or Criterion().key, message.minimize)


def act_request(message: pb.ActRequest, policy: str) -> ActRequest:
    """What a caller wants to be done."""
    wish = MODE
    deterministic = message.deterministic if message.HasField("deterministic") else True
    if not deterministic or message.with_values or message.with_log_probs or message.with_probabilities:
        wish = FlatWish(
            deterministic=deterministic,
            seed=message.seed,
            with_values=message.with_values,
            with_log_probs=message.with_log_probs,
            with_probabilities=message.with_probabilities,
        )
    return ActRequest(
        policy,
        message.count,
        message.observations.slabs,
        message.action_masks,
        message.states,
        wish,
        message.contract_hash,
    )


def act_response(result: ActResult, number: int) -> pb.ActResponse:
    """What is answered."""
    acted = result.acted
    message = pb.ActResponse()  # field by field takes half the time of all at once
    message.version, message.id = result.version, number
    message.actions.slabs.append(result.slab)
    if acted.states:
        message.states.extend(acted.states)
    if acted.values is acted.log_probs is acted.probabilities:  # there are none, as most often
        return message
    for name, values in (
        ("values", acted.values),
        ("log_probs", acted.log_probs),
        ("probabilities", acted.probabilities),
    ):
        if values is not None:
            getattr(message, name).extend(values.ravel().tolist())
    return message


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(dict(values))
    return message
