"""Tries out, on copies, whether this machine computes by hand the bits that it computes with autograd.

Kernels round by how their vectors and tails fall, which processors decide. What is true of those that were measured may
not be of the next one, and then a model must stay with stock SB3.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from stable_baselines3 import DQN, PPO
from torch import nn

from auxilium_rl.core.engine.flat import flatten
from auxilium_rl.core.engine.network import HandNetwork

__all__ = ["difference"]

_ROUNDS = 2


def difference(model: Any) -> str:
    """Where the two ways differ for the networks, batches and optimizer of this model; empty when nowhere."""
    # Copies, and random numbers of its own: the model's and the process's state must be as without the probe.
    stock, hand = copy.deepcopy(model.policy), copy.deepcopy(model.policy)
    optimizer = flatten(hand.optimizer)
    pairs = [(one, HandNetwork(other)) for one, other in zip(_networks(stock), _networks(hand), strict=True)]
    random = torch.Generator().manual_seed(0)
    sizes = _batch_sizes(model)
    for rows in (model.n_envs, *sizes):
        inputs = torch.randn(rows, model.observation_space.shape[0], generator=random)
        if not all(torch.equal(one(inputs), other(inputs)) for one, other in pairs):
            return "here, networks computed by hand differ in rounding"
    for rows in sizes * _ROUNDS:
        stock.optimizer.zero_grad()
        inputs = torch.randn(rows, model.observation_space.shape[0], generator=random)
        for one, other in pairs:
            _backward(one, other, inputs, random)
        trained = [part for part in stock.parameters() if part.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, model.max_grad_norm)
        optimizer.clip(model.max_grad_norm)
        if not _equal([part.grad for part in trained], optimizer.gradient_views):
            return "here, gradients computed by hand differ in rounding"
        stock.optimizer.step()
        optimizer.update()
        if not _equal(list(stock.parameters()), list(hand.parameters())):
            return "here, one optimizer step over all parameters differs in rounding"
    return ""


def _networks(policy: Any) -> list[nn.Sequential]:
    if hasattr(policy, "q_net"):
        return [policy.q_net.q_net]
    extractor = policy.mlp_extractor
    return [
        nn.Sequential(*extractor.policy_net, policy.action_net),
        nn.Sequential(*extractor.value_net, policy.value_net),
    ]


def _batch_sizes(model: Any) -> list[int]:
    if isinstance(model, DQN):
        return [model.batch_size]
    size = model.n_steps * model.n_envs
    if isinstance(model, PPO):
        return [rows for rows in (min(model.batch_size, size), size % model.batch_size) if rows]
    return [size]


def _backward(one: nn.Sequential, other: HandNetwork, inputs: torch.Tensor, random: torch.Generator) -> None:
    output = one(inputs)
    gradient = torch.randn(output.shape, generator=random)
    output.backward(gradient)
    other.backward(gradient, other.forward(inputs)[1])


def _equal(left: list[Any], right: list[Any]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
