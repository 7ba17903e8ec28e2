"""How a policy is asked, wherever it is: over gRPC, over the fast lane, or in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from auxilium_rl.client.errors import ActError
from generated.auxilium.v1 import policies_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.policy_encoding import PolicyEncoding

__all__ = ["Acting", "PolicyEpisode"]


class Acting:
    """Turns observations into a request and its answer into actions."""

    def act(self, observation: Any, *, action_mask: Any = None, deterministic: bool = True) -> Any:
        """The action for one observation, both as the environment has them.

        Args:
            observation: an element of the observation space: a number, an array, or a map of these.
            action_mask: the legal actions; None: all.
            deterministic: False: drawn from the policy's distribution.

        Raises:
            ActError: this is no observation of the policy's space.
            InvalidArgument: what else the policy does not take; for one that remembers use ``episode``.
            NotFound: there is no such policy any more.
        """
        return self._acted([observation], action_mask, deterministic, ())[0][0]

    def act_many(self, observations: Sequence[Any], *, action_masks: Any = None, deterministic: bool = True) -> Any:
        """Actions ``(n, *shape)`` for many observations, each an element of the space or a row of one array."""
        return self._acted(observations, action_masks, deterministic, ())[0]

    def episode(self, *, deterministic: bool = True) -> PolicyEpisode:
        """Acts through one episode, for policies that remember and those that do not."""

        def ask(observation: Any, state: bytes, mask: Any) -> tuple[Any, bytes]:
            states = (state,) if self._encoded().remembers else ()
            actions, after = self._acted([observation], mask, deterministic, states)
            return actions[0], after[0] if after else b""

        return PolicyEpisode(ask)

    def _acted(
        self, observations: Sequence[Any], masks: Any, deterministic: bool, states: Sequence[bytes]
    ) -> tuple[Any, Sequence[bytes]]:
        encoding = self._encoded()
        try:
            request = encoding.request(observations, masks, deterministic, states)
        except (TypeError, ValueError) as wrong:
            raise ActError(f"{wrong}; the policy's observations are {encoding.observation}") from wrong
        answer = self._exchanged(request)
        return encoding.actions(answer.actions, len(observations)), list(answer.states)

    def _encoded(self) -> PolicyEncoding:
        """Of the policy's spaces, which all its versions share."""
        raise NotImplementedError

    def _exchanged(self, request: pb.ActRequest) -> pb.ActResponse:
        """The answer to a request that names no policy yet."""
        raise NotImplementedError


class PolicyEpisode:
    """One episode of acting. Make a new one, or call ``begin``, when the environment is reset."""

    def __init__(self, ask: Callable[[Any, bytes, Any], tuple[Any, bytes]]) -> None:
        self._ask, self._state = ask, b""

    def begin(self) -> None:
        """Forget: another episode begins."""
        self._state = b""

    def act(self, observation: Any, *, action_mask: Any = None) -> Any:
        """The action for the next observation. Raises as ``Acting.act`` does."""
        action, self._state = self._ask(observation, self._state, action_mask)
        return action
