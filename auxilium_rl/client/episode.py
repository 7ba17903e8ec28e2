"""Acting over one episode, and what an observation looks like on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from auxilium_rl.client.errors import ActError
from generated import policy_trainer_pb2

__all__ = ["Episode", "act_request"]


class Episode:
    """One episode of acting. Make a new one, or call ``begin``, when the environment is reset."""

    def __init__(self, ask: Callable[[Any, bytes, Sequence[bool]], tuple[int | list[float], bytes]]) -> None:
        self._ask = ask
        self._state = b""

    def begin(self) -> None:
        """Forget: another episode begins."""
        self._state = b""

    def act(self, observation: Any, *, action_mask: Sequence[bool] = ()) -> int | list[float]:
        """The action for the next observation. Raises ActError."""
        action, self._state = self._ask(observation, self._state, action_mask)
        return action


def act_request(
    run_id: str, observation: Any, state: bytes = b"", mask: Sequence[bool] = ()
) -> policy_trainer_pb2.ActRequest:
    """The message. Raises ActError for what is no observation."""
    try:
        keys = list(observation) if isinstance(observation, Mapping) else ()
        return policy_trainer_pb2.ActRequest(
            run_id=run_id,
            observation=list(_numbers(observation)),
            state=state,
            action_mask=[bool(legal) for legal in mask],
            keys=keys,
        )
    except (TypeError, ValueError):
        raise ActError(
            f"{observation!r:.80} is not an observation; numbers, a list of them or a map of these is accepted"
        ) from None


def _numbers(observation: Any) -> Iterable[float]:
    """Every number, one leaf after another, arrays in C order."""
    if hasattr(observation, "tolist"):
        observation = observation.tolist()
    if isinstance(observation, Mapping):
        observation = list(observation.values())
    if isinstance(observation, (list, tuple)):
        for part in observation:
            yield from _numbers(part)
    elif isinstance(observation, (str, bytes)):
        raise TypeError("text")
    else:
        yield float(observation)
