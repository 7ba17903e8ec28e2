"""What may go: ended runs by the operator's retention, and files that no row names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import structlog

from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import AuxiliumError, FieldViolation, InvalidRequest, RunInUse, RunNotFound
from auxilium_rl.core.experience.ports import ExperienceLogs
from auxilium_rl.core.lineage import Lineage
from auxilium_rl.core.policy_ports import PolicyRegistry, PolicyStore
from auxilium_rl.core.ports import ModelStore, RunRegistry
from auxilium_rl.core.states import TERMINAL, RunState

__all__ = ["Garbage", "Housekeeping", "Retention"]

_log = structlog.get_logger(__name__)
_YOUNG = 3600.0
"""Seconds for which files may wait for their row."""
_PAGE = 500
_UNFINISHED = [state for state in RunState if state not in TERMINAL]


@dataclass(frozen=True)
class Retention:
    """Which ended runs go: those that ended longer ago than ``older_than`` seconds, and are neither among the newest
    ``keep_last`` nor the best ``keep_best`` of their experiment. All zero: none.
    """

    older_than: float = 0.0
    keep_last: int = 0
    keep_best: int = 0

    def check(self) -> None:
        """Raises InvalidRequest."""
        names = {"older_than_seconds": self.older_than, "keep_last": self.keep_last, "keep_best": self.keep_best}
        wrong = [
            FieldViolation(name, f"{value} given; 0 or more is accepted")
            for name, value in names.items()
            if not 0 <= value < 1e12
        ]
        if wrong:
            raise InvalidRequest(*wrong)


@dataclass(frozen=True)
class Garbage:
    """Something that was removed, or would be.

    Attributes:
        kind: ``run``, ``checkpoint`` or ``version`` (files that no row names), ``files`` (of a run that is not known).
        bytes: of its files.
    """

    kind: str
    run_id: str
    path: str
    bytes: int
    why: str


class Housekeeping:
    """Collects garbage when asked, and every ``interval`` seconds by itself.

    Args:
        retention: of what is collected by itself.
        policies: where versions are recorded, and where their files lie; None: they are not looked at.
        experience: what agents pushed; None: it is not looked at.
    """

    def __init__(
        self,
        registry: RunRegistry,
        store: ModelStore,
        lineage: Lineage,
        retention: Retention = Retention(),
        policies: tuple[PolicyRegistry, PolicyStore] | None = None,
        interval: float = 3600.0,
        experience: ExperienceLogs | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._registry, self._store, self._lineage = registry, store, lineage
        self._retention, self._interval, self._clock = retention, interval, clock
        self._policies, self._experience = policies, experience
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin to collect by itself."""
        self._thread.start()

    def close(self) -> None:
        """End, after what is being removed."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def collect(self, retention: Retention, *, dry_run: bool = False, unknown_runs: bool = True) -> list[Garbage]:
        """Remove what may go; gives what it was.

        Args:
            dry_run: remove nothing.
            unknown_runs: also the files of runs that the database does not know.

        Raises:
            InvalidRequest, StoreUnavailable.
        """
        retention.check()
        return [
            *self._runs(retention, dry_run),
            *self._strays(dry_run, unknown_runs),
            *(self._versions(dry_run) if unknown_runs else ()),
            *(self._experiences(dry_run) if unknown_runs else ()),
        ]

    def _loop(self) -> None:
        while True:
            try:
                # Another database may know those that ours does not; only a person may say that they go.
                for found in self.collect(self._retention, unknown_runs=False):
                    _log.info("garbage_collected", kind=found.kind, run=found.run_id, bytes=found.bytes, why=found.why)
            except AuxiliumError as error:
                _log.error("housekeeping_failed", error=error.message)
            if self._ended.wait(self._interval):
                return

    def _runs(self, retention: Retention, dry_run: bool) -> Iterator[Garbage]:
        if retention == Retention():
            return
        experiments: dict[str, list[Run]] = {}
        for run in self._all_ended():
            experiments.setdefault(run.spec.experiment_id, []).append(run)
        for ended in experiments.values():
            for run, why in self._superfluous(ended, retention):
                size = self._store.size_of_run(run.run_id) if dry_run else self._deleted(run.run_id)
                if size is not None:
                    yield Garbage("run", run.run_id, "", size, why)

    def _deleted(self, run_id: str) -> int | None:
        try:
            return self._lineage.delete(run_id)
        except (RunNotFound, RunInUse):  # somebody else was faster, or an unfinished run was made of it
            return None

    def _superfluous(self, ended: list[Run], retention: Retention) -> Iterator[tuple[Run, str]]:
        """The runs of one experiment that go, newest first, and why."""
        scored = [run for run in ended if _score(run) is not None]
        best = sorted(scored, key=lambda run: _score(run) or 0.0, reverse=True)[: retention.keep_best]
        staying = {run.run_id for run in (*ended[: retention.keep_last], *best)}
        oldest_kept = self._clock() - timedelta(seconds=retention.older_than)
        for run in ended:
            finished = run.finished_at or run.updated_at
            if run.run_id not in staying and finished <= oldest_kept and not self._is_needed(run.run_id):
                yield run, f"{run.state} since {finished:%Y-%m-%d %H:%M} UTC"

    def _is_needed(self, run_id: str) -> bool:
        """An unfinished run was made of it."""
        return bool(self._registry.list(page_size=1, parent_run_id=run_id, states=_UNFINISHED).runs)

    def _all_ended(self) -> Iterator[Run]:
        token = ""
        while True:
            page = self._registry.list(page_size=_PAGE, page_token=token, states=sorted(TERMINAL))
            yield from page.runs
            token = page.next_page_token
            if not token:
                return

    def _strays(self, dry_run: bool, unknown_runs: bool) -> Iterator[Garbage]:
        for run_id in self._store.run_ids():
            if self._ended.is_set():
                return
            try:
                recorded = {checkpoint.path for checkpoint in self._registry.get(run_id).checkpoints}
            except RunNotFound:
                found = self._store.strays(run_id, None, _YOUNG) if unknown_runs else ()
                kind, why = "files", "there is no such run"
            else:
                found = self._store.strays(run_id, recorded, _YOUNG)
                kind, why = "checkpoint", "it was never recorded"
            for path, size in found:
                if not dry_run:
                    self._store.remove_stray(path)
                yield Garbage(kind, run_id, path, size, why)

    def _versions(self, dry_run: bool) -> Iterator[Garbage]:
        """Files of versions that were never recorded, or by another database: only a person may say that they go."""
        if self._policies is None:
            return
        registry, store = self._policies
        for path, size in store.strays(registry.paths(), _YOUNG):
            if not dry_run:
                store.remove(path)
            yield Garbage("version", "", path, size, "it was never recorded")

    def _experiences(self, dry_run: bool) -> Iterator[Garbage]:
        """What agents pushed to runs that this database does not know: only a person may say that it goes."""
        logs = self._experience
        for run_id in logs.run_ids() if logs is not None else ():
            with suppress(RunNotFound):
                self._registry.get(run_id)
                continue
            assert logs is not None
            found = logs.stray(run_id, _YOUNG)
            if found is not None:
                if not dry_run:
                    logs.remove(run_id)
                yield Garbage("experience", run_id, *found, "there is no such run")


def _score(run: Run) -> float | None:
    newest = run.newest_checkpoint
    return newest.score if newest else None
