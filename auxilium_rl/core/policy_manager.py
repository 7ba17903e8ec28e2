"""What callers do with policies beside acting: look, name, publish, follow, take away, let go."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import structlog

from auxilium_rl.core.acting import ActingService
from auxilium_rl.core.dto import is_run_id
from auxilium_rl.core.errors import InvalidRequest, PolicyNotFound, StreamsExhausted, VersionInUse
from auxilium_rl.core.policies import (
    Criterion,
    Evaluation,
    Policy,
    PolicyPage,
    PolicyVersion,
    check_alias,
    check_policy_name,
    split_name,
)
from auxilium_rl.core.policy_clock import PolicyClock
from auxilium_rl.core.policy_ports import PolicyRegistry, PolicyStore
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.publishing import Publisher, policy_of

__all__ = ["PolicyManager"]

_log = structlog.get_logger(__name__)
_MAX_TAG = 128


class PolicyManager:
    """The one who knows policies.

    Args:
        capacity: callers that may follow policies at once.
    """

    def __init__(
        self,
        registry: PolicyRegistry,
        store: PolicyStore,
        runs: RunRegistry,
        publisher: Publisher,
        clock: PolicyClock,
        acting: ActingService,
        capacity: int = 128,
    ) -> None:
        self._registry, self._store, self._runs = registry, store, runs
        self._publisher, self._clock, self._acting = publisher, clock, acting
        self._capacity = capacity
        self._slots = threading.Semaphore(capacity)
        self._held: Counter[tuple[str, int]] = Counter()
        self._lock, self._meaning = threading.Lock(), threading.Lock()
        self._meanings: dict[str, tuple[int, PolicyVersion]] = {}

    # -- looking

    def resolve(self, text: str, field: str = "policy") -> PolicyVersion:
        """The version that a name means now; of a run's id, the newest of the policy that it publishes.

        Raises:
            InvalidRequest: the text is no name. PolicyNotFound. RunNotFound.
        """
        split = split_name(text)
        if split is None:
            raise InvalidRequest.of(
                field, f"{text!r:.160} given; 'name', 'name@3', 'name@alias' or a run's id is accepted"
            )
        name, reference = split
        try:
            return self._registry.find(name, reference)
        except PolicyNotFound:
            if reference or not is_run_id(name):
                raise
            run = self._runs.get(name)
            if policy_of(run) == name:
                raise PolicyNotFound(f"run '{name}' is {run.state} and has published nothing yet") from None
            return self._registry.find(policy_of(run))

    def get(self, name: str) -> Policy:
        """Raises InvalidRequest, PolicyNotFound."""
        return self._registry.get(check_policy_name(name))

    def with_evaluations(self, version: PolicyVersion) -> PolicyVersion:
        """The same version with what came to it. Raises PolicyNotFound."""
        for found in self._registry.get(version.name).versions:
            if found.version == version.version:
                return found
        raise PolicyNotFound(f"{version.name}@{version.version} is gone")

    def list(self, page_size: int, page_token: str, tags: Mapping[str, str]) -> PolicyPage:
        """By name. Raises InvalidRequest."""
        if page_token:
            check_policy_name(page_token, "page_token")
        return self._registry.list(page_size=page_size, page_token=page_token, tags=tags)

    # -- changing

    def publish(self, run_id: str, timesteps: int | None, name: str) -> PolicyVersion:
        """Make a version of a run's checkpoint. Raises RunNotFound and what ``Publisher.of_run`` raises."""
        run = self._runs.get(run_id)
        if is_run_id(name) and name != run_id:
            raise InvalidRequest.of("name", f"'{name}' given, which is another run's id")
        version = self._publisher.of_run(run, timesteps, name)
        self._clock.look()
        return version

    def set_alias(self, name: str, alias: str, version: int) -> Policy:
        """Raises InvalidRequest, PolicyNotFound."""
        return self._changed(self._registry.set_alias(check_policy_name(name), check_alias(alias), version))

    def delete_alias(self, name: str, alias: str) -> Policy:
        """Raises InvalidRequest, PolicyNotFound."""
        return self._changed(self._registry.delete_alias(check_policy_name(name), check_alias(alias)))

    def update(
        self,
        name: str,
        set_tags: Mapping[str, str],
        remove_tags: Collection[str],
        notes: str | None,
        criterion: Criterion | None,
    ) -> Policy:
        """Raises InvalidRequest, PolicyNotFound."""
        check_policy_name(name)
        for text in (*set_tags, *set_tags.values(), *remove_tags):
            if not 0 < len(text) <= _MAX_TAG or not text.isprintable():
                raise InvalidRequest.of(
                    "tags", f"{text!r:.160} given; 1 to {_MAX_TAG} printable characters are accepted"
                )
        if criterion is not None and not 0 < len(criterion.key) <= 255:
            raise InvalidRequest.of("criterion.key", f"{len(criterion.key)} characters given; 1 to 255 are accepted")
        changed = self._registry.update(
            name, set_tags=set_tags, remove_tags=remove_tags, notes=notes, criterion=criterion
        )
        return self._changed(changed)

    def evaluated(self, version: PolicyVersion, evaluation: Evaluation) -> Evaluation:
        """Keep an evaluation. Raises PolicyNotFound when the version has gone meanwhile."""
        kept = self._registry.add_evaluation(version.name, version.version, evaluation)
        assert kept is not None  # only a worker can lose its lease
        self._clock.look()
        return kept

    def delete_version(self, name: str, version: int) -> Policy:
        """Forget a version. Raises InvalidRequest, PolicyNotFound, VersionInUse."""
        check_policy_name(name)
        with self._lock:
            watching = self._held[name, version]
        if watching:
            raise VersionInUse(f"{name}@{version} is held by {watching} who follow it")
        gone = self._registry.delete_version(name, version)
        self._acting.forget(name)
        self._store.remove(gone.path)
        _log.info("version_deleted", policy=name, version=version)
        return self._changed(self._registry.get(name))

    def delete(self, name: str) -> int:
        """Forget a policy with all its versions; gives the bytes that were freed.

        Raises:
            InvalidRequest, PolicyNotFound.
            VersionInUse: somebody follows it.
        """
        check_policy_name(name)
        with self._lock:
            watching = sum(count for (held, _), count in self._held.items() if held == name)
        if watching:
            raise VersionInUse(f"'{name}' is held by {watching} who follow it")
        gone = self._registry.delete(name)
        self._acting.forget(name)
        freed = sum(self._store.remove(version.path) for version in gone.versions)
        self._clock.look()
        _log.info("policy_deleted", policy=name, bytes=freed)
        return freed

    def run_deleted(self, run_id: str) -> None:
        """A run was deleted: the policy that only has its id for a name goes with it."""
        try:
            self.delete(run_id)
        except (PolicyNotFound, VersionInUse) as why:
            _log.debug("policy_of_run_stays", run_id=run_id, reason=why.message)

    def _changed(self, policy: Policy) -> Policy:
        self._clock.look()
        return policy

    # -- following

    def follow(self, text: str, alive: threading.Event) -> Iterator[PolicyVersion]:
        """The version that a name means, at once and whenever that changes; only ever the newest.

        What was given last is held: it cannot be deleted meanwhile.

        Args:
            alive: cleared when the caller has gone; ``wake`` makes the stream look at it.

        Raises:
            InvalidRequest, PolicyNotFound, RunNotFound: at once.
            PolicyNotFound: it was deleted meanwhile.
            StreamsExhausted: too many follow.
        """
        if not self._slots.acquire(blocking=False):
            raise StreamsExhausted(f"{self._capacity} streams are open; MAX_WATCH_STREAMS bounds them")
        try:
            yield from self._followed(text, alive)
        finally:
            self._slots.release()

    def _followed(self, text: str, alive: threading.Event) -> Iterator[PolicyVersion]:
        tick = self._clock.now()
        version: PolicyVersion | None = self._meant(text, tick)
        while version is not None and alive.is_set():
            with self._holding(version):
                yield version
                version, tick = self._next(text, version, tick, alive)

    def _next(
        self, text: str, held: PolicyVersion, tick: int, alive: threading.Event
    ) -> tuple[PolicyVersion | None, int]:
        """The version that a name means when it means another one, and when that was; None when the stream ends."""
        while True:
            following = self._clock.wait(tick, alive)
            if following is None:
                return None, tick
            tick = following
            now = self._meant(text, tick)
            if (now.name, now.version) != (held.name, held.version):
                return now, tick

    def _meant(self, text: str, tick: int) -> PolicyVersion:
        """What ``resolve`` gives; asked once for all who follow the same name."""
        with self._meaning:
            known = self._meanings.get(text)
            if known is None or known[0] != tick:
                known = self._meanings[text] = tick, self.resolve(text)
                if len(self._meanings) > 2 * self._capacity:
                    self._meanings = {text: known}
            return known[1]

    @contextmanager
    def _holding(self, version: PolicyVersion) -> Iterator[None]:
        key = version.name, version.version
        with self._lock:
            self._held[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]

    def wake(self) -> None:
        """Make every stream look whether its caller has gone."""
        self._clock.wake()

    # -- taking away

    def read(self, version: PolicyVersion, name: str) -> bytes:
        """A file of a version. Raises InvalidRequest for one that it does not have; ModelCorrupt, StoreUnavailable."""
        version.file(name)
        return self._store.read(version, name)

    def base_of(self, version: PolicyVersion, sha256: str) -> PolicyVersion | None:
        """The version of the same policy whose ``policy.onnx`` a caller has."""
        if not sha256:
            return None
        return next((one for one in self._registry.get(version.name).versions if one.sha256 == sha256), None)
