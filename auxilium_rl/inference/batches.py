"""Observations on their way to a policy, and actions on their way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["MODE", "ActRequest", "ActResult", "Acted", "Action", "FlatBatch", "FlatWish"]


class Action(NamedTuple):
    """What a policy does.

    Attributes:
        number: a Discrete action, counted from 0; 0 for other spaces.
        values: every element of an action that is not one Discrete number.
        state: what the policy remembers of this episode, to come back with the next observation.
    """

    number: int
    values: tuple[float, ...] = ()
    state: bytes = b""


@dataclass(frozen=True)
class FlatBatch:
    """Observations as a policy's graph takes them.

    Attributes:
        rows: ``(n, observation_dim)`` float32, finite; the leaves one after another, whole numbers counted from 0.
        states: of the answers before, one for each row; empty bytes: an episode begins. Empty for policies that
            remember nothing.
        masks: ``(n, mask_len)``, the legal actions; None: all.
    """

    rows: npt.NDArray[np.float32]
    states: Sequence[bytes] = ()
    masks: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class FlatWish:
    """What is wanted of a policy.

    Attributes:
        seed: of sampled actions; 0: drawn.
    """

    deterministic: bool = True
    seed: int = 0
    with_values: bool = False
    with_log_probs: bool = False
    with_probabilities: bool = False


MODE = FlatWish()
"""Deterministic actions and nothing else."""


@dataclass(frozen=True)
class Acted:
    """What a policy answers.

    Attributes:
        actions: ``(n, *shape)``, whole numbers counted from 0.
        states: one for each row, of policies that remember.
        values, log_probs: ``(n,)``.
        probabilities: ``(n, sum of the numbers of actions)``.
    """

    actions: npt.NDArray[Any]
    states: Sequence[bytes] = ()
    values: npt.NDArray[np.float32] | None = None
    log_probs: npt.NDArray[np.float32] | None = None
    probabilities: npt.NDArray[np.float32] | None = None


@dataclass(slots=True)  # not frozen: to make one then takes a third of the time, and each call makes one
class ActRequest:
    """Observations as a simulator sends them. Nobody changes one.

    Attributes:
        slabs: one for each leaf, in the order of the space: C order, little endian.
        masks: ``(count, mask_len)`` bytes; empty: everything is legal.
        states: see ``FlatBatch``; policies that remember need one for each row.
        contract_hash: must be the policy's, when given.
    """

    policy: str
    count: int
    slabs: Sequence[bytes]
    masks: bytes = b""
    states: Sequence[bytes] = ()
    wish: FlatWish = MODE
    contract_hash: str = ""


class ActResult(NamedTuple):
    """What goes back to a simulator.

    Attributes:
        slab: the actions as the simulator takes them, C order, little endian.
        acted: what else there is; its ``actions`` may be left out.
        version: that answered; -1: a checkpoint that is no version.
    """

    slab: bytes
    acted: Acted
    version: int
