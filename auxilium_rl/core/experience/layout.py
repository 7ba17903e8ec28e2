"""How the experience of an off-policy run is spread over replay shards, and what cannot be learned from so.

A run keeps the number of parts that it was begun with, whatever REPLAY_SHARDS becomes: chunk ``seq`` of an agent lies
in part ``seq`` modulo that number, so that whoever comes again finds what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from auxilium_rl.core.dto import ExperiencePlan, Run
from auxilium_rl.core.errors import AuxiliumError
from auxilium_rl.core.experience.plan import AGENTS, ON_POLICY
from auxilium_rl.core.violations import Violations

__all__ = ["Layout", "contiguous", "layout_of", "spread"]


@dataclass(frozen=True)
class Layout:
    """Where what of one run lies.

    Attributes:
        parts: how many.
        capacity: transitions that are learned from, over all parts: the newest of each.
        ancestors: runs whose experience comes before this one's, oldest first: it goes on with what they learned.
    """

    run_id: str
    contract: str
    parts: int
    capacity: int
    ancestors: tuple[str, ...] = ()

    def part_of(self, seq: int) -> int:
        """Where a chunk lies."""
        return seq % self.parts

    def capacity_of(self, part: int) -> int:
        """The share of one part."""
        return self.capacity // self.parts + (part < self.capacity % self.parts)


def spread(
    plan: ExperiencePlan | None, algorithm: str, hyperparameters: Mapping[str, Any], shards: int
) -> ExperiencePlan | None:
    """The plan, with as many parts as there are shards; 0: as it is.

    Raises:
        InvalidRequest: shards cannot do what the hyperparameters ask for.
    """
    if plan is None or algorithm in ON_POLICY or not shards:
        return plan
    found, size = Violations(), int(hyperparameters.get("buffer_size", shards))
    found.require(
        size >= shards,
        "hyperparameters.buffer_size",
        f"{size} given; the experience lies in {shards} shards (REPLAY_SHARDS), and at least one for each is accepted",
    )
    for name, accepted in (("n_steps", 1), ("optimize_memory_usage", False)):
        value = hyperparameters.get(name, accepted)
        found.require(
            value == accepted,
            f"hyperparameters.{name}",
            f"{value} given; {accepted} is accepted where the experience lies in shards (REPLAY_SHARDS): "
            "steps that follow each other may lie in several",
        )
    for name, given in (("buffers", plan.buffers), ("hindsight", plan.hindsight)):
        found.require(
            not given,
            f"experience.{name}",
            "given; it is not accepted where the experience lies in shards (REPLAY_SHARDS), of which each transition "
            "is as likely as another",
        )
    found.settle()
    return replace(plan, shards=shards)


def layout_of(run: Run, look_up: Callable[[str], Run]) -> Layout | None:
    """The layout of a run; None: its experience lies in one log. Raises as ``look_up`` does, for a parent."""
    spec = run.spec
    if spec.experience is None or not spec.experience.shards:
        return None
    ancestors: list[str] = []
    one = run
    while one.spec.parent is not None and one.spec.parent.kind in {"retry", "extend"}:
        try:
            one = look_up(one.spec.parent.run_id)
        except AuxiliumError:
            if not ancestors:  # the nearest one is there as long as this run has not ended
                raise
            break
        if one.spec.environment.uri != AGENTS or one.spec.environment.contract != spec.environment.contract:
            break
        ancestors.insert(0, one.run_id)
    capacity = int(spec.hyperparameters["buffer_size"])
    return Layout(run.run_id, spec.environment.contract, spec.experience.shards, capacity, tuple(ancestors))


def contiguous(last: Sequence[int], without: frozenset[int] | set[int] = frozenset()) -> int:
    """The greatest number up to which nothing is missing.

    Args:
        last: of each part the greatest number that it has; 0: none. Each has all of its own up to there.
        without: numbers that no part will ever have.
    """
    parts = len(last)
    missing = []
    for part, newest in enumerate(last):
        following = newest + parts if newest else part or parts
        while following in without:
            following += parts
        missing.append(following)
    return min(missing) - 1
