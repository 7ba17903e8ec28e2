"""What core needs from the outside for policies, as Protocols. ``infra`` implements them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from auxilium_rl.core.dto import EnvironmentSource
from auxilium_rl.core.policies import (
    Criterion,
    Episode,
    Evaluation,
    NewVersion,
    Policy,
    PolicyFile,
    PolicyPage,
    PolicyVersion,
)
from auxilium_rl.inference.batches import MODE, Acted, Action, ActRequest, FlatBatch, FlatWish

__all__ = ["ActionModel", "Evaluator", "PolicyRegistry", "PolicyStore", "StoredFiles"]


class PolicyRegistry(Protocol):
    """Policies, their versions, aliases and evaluations. Every method is one transaction.

    Raises (all methods): StoreUnavailable when the database cannot be used.
    """

    def change(self) -> int:
        """A number that rises with every change of a policy."""

    def find(self, name: str, reference: str = "") -> PolicyVersion:
        """The version that a number or alias means; empty: ``latest``. Without evaluations. Raises PolicyNotFound."""

    def get(self, name: str) -> Policy:
        """Raises PolicyNotFound."""

    def list(self, *, page_size: int = 50, page_token: str = "", tags: Mapping[str, str] | None = None) -> PolicyPage:
        """By name; those that have all ``tags``. Without evaluations."""

    def paths(self) -> Collection[str]:
        """The folder of every version."""

    def publish(self, new: NewVersion, epoch: int | None = None) -> PolicyVersion | None:
        """Make a version, and ``latest`` point to it: number 0 for the weights of a new policy before their first
        update, else the next one from 1. What was published of a run's checkpoint before stays as it was then.

        Args:
            epoch: of the worker that publishes. None comes back when its lease is lost.

        Raises:
            InvalidRequest: the policy's versions have another contract.
        """

    def set_alias(self, name: str, alias: str, version: int) -> Policy:
        """Move an alias, or make it. Raises PolicyNotFound."""

    def delete_alias(self, name: str, alias: str) -> Policy:
        """Raises PolicyNotFound."""

    def delete_version(self, name: str, version: int) -> PolicyVersion:
        """Forget a version; its number is never used again. Raises PolicyNotFound, VersionInUse (by an alias)."""

    def delete(self, name: str) -> Policy:
        """Forget a policy with all its versions; gives what it was. Raises PolicyNotFound."""

    def update(
        self,
        name: str,
        *,
        set_tags: Mapping[str, str],
        remove_tags: Collection[str],
        notes: str | None,
        criterion: Criterion | None,
    ) -> Policy:
        """Change what is not None or empty; another criterion moves ``best``. Raises PolicyNotFound."""

    def add_evaluation(
        self, name: str, version: int, evaluation: Evaluation, held: tuple[str, int] | None = None
    ) -> Evaluation | None:
        """Keep an evaluation, and move ``best``. Raises PolicyNotFound.

        Args:
            held: the run and the lease's epoch of the worker that evaluated. None comes back when its lease is lost.
        """


class PolicyStore(Protocol):
    """Where the files of versions lie."""

    def put(self, name: str, files: Mapping[str, bytes], about: Mapping[str, object]) -> StoredFiles:
        """Keep files in a new folder, all or none. Raises StoreUnavailable."""

    def read(self, version: PolicyVersion, name: str) -> bytes:
        """A file of a version, its hash checked. Raises ModelCorrupt, StoreUnavailable."""

    def remove(self, path: str) -> int:
        """Remove a folder that ``put`` made; gives the bytes that were freed."""

    def strays(self, recorded: Collection[str], age: float) -> Sequence[tuple[str, int]]:
        """Path and bytes of every folder that is not ``recorded`` and older than ``age`` seconds."""


class Evaluator(Protocol):
    """Plays episodes somewhere where nobody is disturbed."""

    def episodes(
        self,
        files: tuple[bytes, bytes],
        environment: EnvironmentSource,
        wanted: dict[str, object],
        alive: threading.Event,
    ) -> Iterator[Episode]:
        """Each episode as it ends.

        Args:
            files: ``policy.onnx`` and ``policy.json``.
            wanted: the fields of ``core.evaluating.Wanted``.
            alive: cleared when the caller has gone; then ``look``.

        Raises:
            StreamsExhausted: as many evaluations go on as may.
            InvalidRequest: the environment cannot be opened, or is not the policy's.
            EvaluationFailed: the simulator or the process failed in the middle.
        """

    def look(self, alive: threading.Event) -> None:
        """The caller who had given ``alive`` has gone: end its evaluation."""


@dataclass(frozen=True)
class StoredFiles:
    """What ``PolicyStore.put`` made."""

    path: str
    manifest_sha256: str
    files: tuple[PolicyFile, ...]


class ActionModel(Protocol):
    """A loaded policy.

    Attributes:
        observation_dim: numbers in one observation.
        remembers: whether it takes and gives a state.
        size: bytes of its graph.
        description: ``policy.json``.
    """

    observation_dim: int
    remembers: bool
    size: int
    description: dict[str, Any]

    def act(
        self, observation: Sequence[float], state: bytes = b"", mask: Sequence[bool] = (), keys: Sequence[str] = ()
    ) -> Action:
        """The deterministic action for one observation of ``observation_dim`` finite numbers.

        Args:
            state: of the answer before; empty: an episode begins.
            mask: the legal actions; empty: all.
            keys: of a Dict, its leaves in the order given; empty: in the simulator's order.

        Raises:
            Refused: a number, state or mask that this policy cannot take.
        """

    def act_flat(self, batch: FlatBatch, wish: FlatWish = MODE) -> Acted:
        """Actions for many observations.

        Raises:
            Refused: a number, state or mask that this policy cannot take, or a wish it cannot fulfil.
        """

    def act_rows(self, request: ActRequest) -> tuple[bytes, Acted]:
        """Actions for observations as the simulator sends them: one slab, and what else was wished (without actions).

        Raises:
            Refused: as ``act_flat``; bytes that are no such observations; another contract.
            Unfit: it was made by a release whose policies act through ``act`` only.
        """
