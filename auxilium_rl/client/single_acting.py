"""One observation at a time, without a message: what most programs do that act in their own process."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from auxilium_rl.client.elements import BoxElements, fitting_mask, is_plain_box
from auxilium_rl.client.errors import ActError
from auxilium_rl.client.policy_encoding import PolicyEncoding
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Refused
from auxilium_rl.inference.sampling import Sampler, SplitMix64

__all__ = ["SingleActing"]

_DISTRIBUTIONS = {"categorical", "epsilon_greedy", "gaussian", "squashed_gaussian"}


class SingleActing:
    """Of one version of a policy that sees a Box of float32 and remembers nothing. Any number of threads may call.

    Args:
        policy: what is computed; both share its graph.
    """

    def __init__(self, policy: OnnxPolicy, description: Mapping[str, Any], encoding: PolicyEncoding) -> None:
        self._observations = BoxElements(encoding.observation)
        action: Any = encoding.action
        self._dtype, self._discrete = action.dtype, isinstance(action, spaces.Discrete)
        self._mask_len, self._start = (int(action.n), int(action.start)) if self._discrete else (0, 0)
        self._sampler = Sampler(policy.session, dict(description))
        self.draws = description.get("distribution") in _DISTRIBUTIONS
        self._rng = SplitMix64(secrets.randbits(64))
        self._seen = np.zeros(encoding.observation.shape or (), np.float32)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, policy: OnnxPolicy, description: Mapping[str, Any], encoding: PolicyEncoding) -> SingleActing | None:
        """None: it takes more than this."""
        plain = is_plain_box(encoding.observation) and isinstance(encoding.action, spaces.Discrete | spaces.Box)
        return cls(policy, description, encoding) if plain and not encoding.remembers else None

    def act(self, observation: Any, mask: Any, deterministic: bool) -> Any:
        """See ``Acting.act``."""
        legal = None
        if mask is not None:
            legal = fitting_mask(mask, self._mask_len, "this policy takes no mask", "action_mask")
        with self._lock:
            row = self._observations.put(observation, self._seen)
            try:
                if deterministic:
                    sent = self._sampler.best(row, legal).sent
                else:
                    sent = self._sampler.draw(row, self._rng, legal).sent
            except Refused as refused:
                raise ActError(f"action_mask: {refused.description}") from refused  # it looks at nothing else
        return sent + self._start if self._discrete else sent.astype(self._dtype)
