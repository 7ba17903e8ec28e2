"""A policy as torch modules, from what the simulator sent to what it is sent back.

Only workers import this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage, unwrap_vec_wrapper
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from auxilium_rl.wire.rows import AnySpace

__all__ = ["ActorGraph", "CriticGraph"]

_LOG_STD_BOUNDS = (-20.0, 2.0)
"""Of SAC and TQC; source: Stable-Baselines3's ``sac/policies.py``."""


class ActorGraph(nn.Module):
    """Flat observations ``(n, size)`` float32 → the deterministic action, and the scores it was chosen by.

    Built of the policy's own modules, so that it has the weights of now. The leaves of a Dict lie one after another in
    the order of the space; frames are stacked already; normalisation, transposed images, one-hot numbers, clipped and
    unscaled actions are inside. Recurrent policies take and give hidden and cell state, ``(layers, n, size)`` each.

    Attributes:
        leaves: key and space of each leaf as it comes in, frames stacked.
        distribution: what sampled actions are drawn from: ``categorical`` or ``bernoulli`` (of the scores),
            ``gaussian`` or ``squashed_gaussian`` (the scores are its means; the logarithm of its deviation is another
            output), ``epsilon_greedy``, or ``none``.
        state_shape: ``(layers, hidden size)`` of a recurrent policy; None otherwise.
        quantiles: rows of the scores, whose mean counts; 0: there are none.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        super().__init__()
        env, policy = model.get_env(), model.policy
        assert env is not None
        scaling: VecNormalize | None = unwrap_vec_wrapper(env, VecNormalize)
        inner = env
        while isinstance(inner, (VecTransposeImage, VecNormalize)):
            inner = inner.venv  # values come in as the simulator sent them, frames stacked
        raw: AnySpace = inner.observation_space
        self._is_dict = isinstance(raw, spaces.Dict)
        # Wrappers sort the keys of a Dict; the order that counts is the simulator's.
        order = env.unwrapped.observation_space
        self.leaves: list[tuple[str, AnySpace]] = (
            [(key, raw.spaces[key]) for key in order.spaces]
            if isinstance(raw, spaces.Dict) and isinstance(order, spaces.Dict)
            else [("", raw)]
        )
        self._final_space: Any = policy.observation_space
        self._images = policy.normalize_images
        self._action: AnySpace = model.action_space
        self._kind = _kind_of(policy)
        self._mask_of_bits = isinstance(policy, MaskableActorCriticPolicy)
        self.state_shape: tuple[int, int] | None = None
        self.extractor, self.latent, self.head = _parts(policy)
        self.distribution = _distribution_of(policy, self._action)
        anything: Any = policy
        if self.distribution == "squashed_gaussian":
            self.spread: Any = anything.actor.log_std
        elif self.distribution == "gaussian":
            self.constant_log_std: Any = anything.log_std
        if isinstance(policy, RecurrentActorCriticPolicy):
            self.lstm = policy.lstm_actor
            self.state_shape = (self.lstm.num_layers, self.lstm.hidden_size)
        self.quantiles = policy.n_quantiles if isinstance(policy, QRDQNPolicy) else 0
        self._register_normalisation(scaling)

    @property
    def size(self) -> int:
        """Numbers in one flat observation."""
        return sum(_count(space) for _, space in self.leaves)

    def refresh(self, scaling: VecNormalize) -> None:
        """Take over the normalisation of now; weights are shared anyway."""
        for key, number in self._scaled:
            rms: Any = scaling.obs_rms[key] if isinstance(scaling.obs_rms, dict) else scaling.obs_rms
            getattr(self, f"mean_{number}").copy_(torch.from_numpy(np.asarray(rms.mean, np.float64)))
            scale = np.sqrt(rms.var + scaling.epsilon)
            getattr(self, f"scale_{number}").copy_(torch.from_numpy(np.asarray(scale, np.float64)))

    @property
    def scaled(self) -> bool:
        """Whether observations are normalised."""
        return bool(self._scaled)

    @property
    def finish(self) -> str:
        """How what comes out of the last layer becomes an action: see ``network_of``."""
        if isinstance(self._action, spaces.Discrete):
            return "choose"
        if not isinstance(self._action, spaces.Box):
            return "choose_each"
        return {"bounded": "tanh_unscale", "bounded already": "unscale"}.get(self._kind, "clip")

    def forward(
        self, observation: torch.Tensor, hidden: torch.Tensor | None = None, cell: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Action, scores, the deviations where there are any, and the new state of a recurrent policy."""
        features = self.extractor(self.prepared(observation))
        state: tuple[torch.Tensor, ...] = ()
        if self.state_shape is not None:
            out, state = self.lstm(features.unsqueeze(0), (hidden, cell))
            features = out.squeeze(0)
        latent = self.latent(features)
        raw = self.head(latent)
        return (*self._decide(raw), *self._deviations(latent, raw), *state)

    def prepared(self, observation: torch.Tensor) -> Any:
        """What the policy's feature extractor takes."""
        return preprocess_obs(self._unflattened(observation), self._final_space, self._images)

    def _deviations(self, latent: torch.Tensor, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.distribution == "squashed_gaussian":
            return (self.spread(latent).clamp(*_LOG_STD_BOUNDS),)
        return (self.constant_log_std.expand_as(raw),) if self.distribution == "gaussian" else ()

    def _unflattened(self, flat: torch.Tensor) -> Any:
        leaves: dict[str, torch.Tensor] = {}
        start = 0
        numbers = dict(self._scaled)
        for key, space in self.leaves:
            count = _count(space)
            leaf = flat[:, start : start + count].reshape(-1, *_shape(space))
            start += count
            if key in numbers:
                leaf = self._scaled_leaf(leaf, numbers[key])
            final = self._final_space.spaces[key] if self._is_dict else self._final_space
            if len(_shape(space)) == 3 and final.shape != space.shape:
                leaf = leaf.permute(0, 3, 1, 2)
            leaves[key] = leaf
        return leaves if self._is_dict else leaves[""]

    def _scaled_leaf(self, leaf: torch.Tensor, number: int) -> torch.Tensor:
        centred = leaf.double() - getattr(self, f"mean_{number}")
        scaled: torch.Tensor = centred / getattr(self, f"scale_{number}")
        return scaled.clamp(-self._clip, self._clip).float()

    def _decide(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the policy's distribution calls its mode, in the simulator's own units."""
        action = self._action
        if self._kind == "quantiles":
            raw = raw.view(-1, self.quantiles, int(action.n)).mean(dim=1)  # type: ignore[attr-defined]
        if isinstance(action, spaces.Discrete):
            return raw.argmax(dim=1), raw
        if isinstance(action, spaces.Box):
            return self._continuous(raw, action), raw
        if isinstance(action, spaces.MultiDiscrete) or self._mask_of_bits:
            bits = isinstance(action, spaces.MultiBinary)
            sizes = [2] * int(np.prod(_shape(action))) if bits else action.nvec.tolist()  # type: ignore[attr-defined]
            return torch.stack([part.argmax(dim=1) for part in torch.split(raw, sizes, dim=1)], dim=1), raw
        return (raw > 0).long(), raw

    def _continuous(self, raw: torch.Tensor, space: spaces.Box) -> torch.Tensor:
        low = torch.from_numpy(space.low.astype(np.float32))
        high = torch.from_numpy(space.high.astype(np.float32))
        if self._kind == "bounded":
            return low + 0.5 * (torch.tanh(raw) + 1.0) * (high - low)
        if self._kind == "bounded already":
            return low + 0.5 * (raw + 1.0) * (high - low)
        return torch.minimum(torch.maximum(raw, low), high)

    def _register_normalisation(self, scaling: VecNormalize | None) -> None:
        keys = [] if scaling is None or not scaling.norm_obs else (scaling.norm_obs_keys or [""])
        self._clip = 0.0 if scaling is None else float(scaling.clip_obs)
        self._scaled = [(key, number) for number, key in enumerate(keys)]
        shapes = dict(self.leaves)
        for key, number in self._scaled:
            for name in ("mean", "scale"):
                self.register_buffer(f"{name}_{number}", torch.zeros(_shape(shapes[key]), dtype=torch.float64))


def _kind_of(policy: Any) -> str:
    """How the numbers that come out of the last layer become an action."""
    if isinstance(policy, QRDQNPolicy):
        return "quantiles"
    if isinstance(policy, (ActorCriticPolicy, MaskableActorCriticPolicy, DQNPolicy)):
        return "plain"
    return "bounded" if hasattr(policy.actor, "latent_pi") else "bounded already"


class CriticGraph(nn.Module):
    """Flat observations ``(n, size)`` float32 → values ``(n,)`` of an actor-critic policy that does not remember."""

    def __init__(self, actor: ActorGraph, policy: Any) -> None:
        super().__init__()
        self.actor = actor
        self.extractor, self.body = policy.vf_features_extractor, policy.mlp_extractor.value_net
        self.head = policy.value_net

    @staticmethod
    def exists(policy: Any) -> bool:
        """Whether the policy says of single observations what they are worth."""
        recurrent = isinstance(policy, RecurrentActorCriticPolicy)
        return isinstance(policy, (ActorCriticPolicy, MaskableActorCriticPolicy)) and not recurrent

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """The values."""
        values: torch.Tensor = self.head(self.body(self.extractor(self.actor.prepared(observation))))
        return values.flatten()


def _distribution_of(policy: Any, action: AnySpace) -> str:
    if isinstance(policy, (DQNPolicy, QRDQNPolicy)):
        return "epsilon_greedy"
    if not isinstance(action, spaces.Box):
        bits = isinstance(action, spaces.MultiBinary) and not isinstance(policy, MaskableActorCriticPolicy)
        return "bernoulli" if bits else "categorical"
    if isinstance(policy, ActorCriticPolicy):
        return "none" if policy.use_sde else "gaussian"
    return "squashed_gaussian" if hasattr(policy.actor, "log_std") and not policy.actor.use_sde else "none"


def _parts(policy: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    """What makes features of a prepared observation, what goes on from there, and the last layer."""
    if isinstance(policy, DQNPolicy):
        return policy.q_net.features_extractor, nn.Identity(), policy.q_net.q_net
    if isinstance(policy, QRDQNPolicy):
        return policy.quantile_net.features_extractor, nn.Identity(), policy.quantile_net.quantile_net
    if isinstance(policy, (ActorCriticPolicy, MaskableActorCriticPolicy)):
        return policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net
    actor = policy.actor
    return actor.features_extractor, getattr(actor, "latent_pi", nn.Identity()), actor.mu


def _shape(space: AnySpace) -> tuple[int, ...]:
    return tuple(space.shape or ())


def _count(space: AnySpace) -> int:
    return int(np.prod(_shape(space), dtype=np.int64))
