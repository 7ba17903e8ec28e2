"""From the files of a policy to one that acts, after a look at whether it is the one that was trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Unfit
from auxilium_rl.wire.trees import InvalidTree, unpack

__all__ = ["checked_policy", "differing"]

_Array = npt.NDArray[Any]

_READABLE = (1, 2, 3)
_TIE, _TOLERANCE = 1e-6, 1e-5
"""Scores so close are equally good; continuous actions so close are the same, in units of their range."""


def checked_policy(read: Callable[[str], bytes], names: Collection[str], where: str, most: int) -> OnnxPolicy:
    """The policy of some files.

    Args:
        read: gives a file's bytes, its hash checked.
        names: the files there are.
        where: names them in errors.

    Raises:
        Unfit: they are none, of a release that is not known here, or do not act as was recorded of them.
    """
    description = json.loads(read("policy.json"))
    version = description.get("format_version")
    if version not in _READABLE:
        known = ", ".join(map(str, _READABLE))
        raise Unfit(f"{where}/policy.json has format_version {version}; this server reads {known}")
    critic = (lambda: read("critic.onnx")) if "critic.onnx" in names else None
    policy = OnnxPolicy(read("policy.onnx"), description, critic, most)
    if "parity.npz" in names:
        _check(policy, read("parity.npz"), where)
    return policy


def differing(actions: _Array, scores: _Array, expected: _Array, *, continuous: bool) -> npt.NDArray[np.bool_]:
    """Which of the actions ``(n, ...)`` are others than the expected ones; ``scores`` ``(n, m)`` of discrete ones."""
    far: npt.NDArray[np.bool_]
    if continuous:
        far = np.abs(actions - expected) > _TOLERANCE * np.maximum(1.0, np.abs(expected))
    else:
        best = np.sort(scores, axis=1)[:, -2:]
        tied = best[:, -1] - best[:, 0] < _TIE if scores.shape[1] > 1 else np.abs(scores[:, 0]) < _TIE
        far = (actions != expected) & ~tied.reshape(-1, *(1 for _ in actions.shape[1:]))
    return far


def _check(policy: OnnxPolicy, samples: bytes, where: str) -> None:
    """It must do what Stable-Baselines3's ``predict`` did when it was saved. Raises Unfit."""
    try:
        kept = unpack(samples)
        rows, expected = kept["observations"], kept["actions"]
    except (InvalidTree, KeyError, TypeError) as error:
        raise Unfit(f"{where}/parity.npz cannot be read: {error}") from error
    actions, scores = policy.first_actions(rows)
    far = differing(actions, scores, expected, continuous=policy.is_continuous)
    if np.any(far):
        row = int(np.argwhere(far)[0][0])
        raise Unfit(
            f"{where} does not act as it was trained to: for sample {row} it says {actions[row]}, "
            f"Stable-Baselines3 said {expected[row]}"
        )
