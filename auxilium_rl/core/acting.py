"""Finds the policy that a caller means, and asks it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from auxilium_rl.core.dto import Checkpoint, Run, is_run_id
from auxilium_rl.core.errors import InvalidRequest, ModelNotReady, PolicyNotFound, RunNotFound, StoreUnavailable
from auxilium_rl.core.model_cache import ModelCache
from auxilium_rl.core.policies import PolicyVersion, split_name
from auxilium_rl.core.policy_clock import PolicyClock
from auxilium_rl.core.policy_ports import ActionModel, PolicyRegistry
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.states import TERMINAL
from auxilium_rl.inference.batches import Action, ActRequest, ActResult
from auxilium_rl.inference.refused import Refused, Unfit

__all__ = ["ActingService", "Found"]

_NAMES = 10_000
"""Names whose policy is remembered."""


class Found(NamedTuple):
    """The policy that a name means now.

    Attributes:
        version: -1: a run's checkpoint that is no version.
        tick: of the policy clock before it was found: the name means this as long as nothing changes.
        key: of the model in the cache.
    """

    model: ActionModel
    version: int
    tick: int
    key: str


class ActingService:
    """Acts for names of policies, ids of runs and paths of exported models.

    Names of policies and runs that have ended are looked up again when the policy clock says that something changed; a
    run that trains and a path at every call. While registry or store are away, the model that answered last for a name
    goes on answering.

    Args:
        load_checkpoint, load_version: make a model; slow.
    """

    def __init__(
        self,
        registry: RunRegistry,
        policies: PolicyRegistry,
        clock: PolicyClock,
        cache: ModelCache,
        load_checkpoint: Callable[[Checkpoint], ActionModel],
        load_version: Callable[[PolicyVersion], ActionModel],
    ) -> None:
        self._registry, self._policies, self._clock = registry, policies, clock
        self._cache, self._load_checkpoint, self._load_version = cache, load_checkpoint, load_version
        self._known: OrderedDict[str, Found] = OrderedDict()
        self._last: OrderedDict[str, Found] = OrderedDict()
        self._lock = threading.Lock()
        cache.let_go = self._let_go

    def act(
        self,
        name: str,
        observation: Sequence[float],
        state: bytes = b"",
        mask: Sequence[bool] = (),
        keys: Sequence[str] = (),
    ) -> Action:
        """The deterministic action for one observation.

        Args:
            name: a run id; a policy's ``name``, ``name@version`` or ``name@alias``; or the ``model_output_path`` of a
                finished run.
            observation: as many finite numbers as the policy's observations have.
            state: of the answer before, for policies that remember; empty: an episode begins.
            mask: the legal actions; empty: all.
            keys: of a Dict, its leaves in the order given; empty: in the simulator's order.

        Raises:
            RunNotFound: neither a run, a policy nor a path of a finished run.
            PolicyNotFound: the policy has no such version or alias.
            ModelNotReady: the run has no model yet, or never will.
            InvalidRequest: wrong length, NaN or infinity; a number, state or mask that the policy cannot take.
            ModelCorrupt: the stored model is not the one that was recorded.
        """
        model = self.find(name).model
        if len(observation) != model.observation_dim:
            raise InvalidRequest.of(
                "observation", f"{len(observation)} values given; this policy takes {model.observation_dim}"
            )
        if not math.isfinite(sum(observation)):
            index, value = next((n, v) for n, v in enumerate(observation) if not math.isfinite(v))
            raise InvalidRequest.of("observation", f"value {index} is {value}; every value must be finite")
        try:
            return model.act(observation, state, mask, keys)
        except Refused as refused:
            raise InvalidRequest.of(refused.field, refused.description) from refused

    def act_rows(self, request: ActRequest) -> ActResult:
        """Actions for observations as the simulator sends them. Raises as ``act`` does."""
        found = self.find(request.policy)
        try:
            slab, acted = found.model.act_rows(request)
        except Refused as refused:
            raise InvalidRequest.of(refused.field, refused.description) from refused
        except Unfit as unfit:
            raise ModelNotReady(str(unfit)) from unfit
        return ActResult(slab, acted, found.version)

    def find(self, name: str) -> Found:
        """The policy that a name means now. Raises as ``act`` does."""
        known = self._known.get(name)
        if known is not None and known.tick == self._clock.now():
            self._cache.touch(known.key)
            return known
        try:
            found = self._find(name)
        except StoreUnavailable:
            last = self._last.get(name)
            if last is None:
                raise
            return last
        self._remember(self._last, name, found)
        return found

    def is_loaded(self, version: PolicyVersion) -> bool:
        """Whether a version is in memory."""
        return self._cache.has(_key(version))

    def unload(self, version: PolicyVersion) -> None:
        """Give a version's memory back; whoever acts with it loads it again."""
        self._cache.drop(_key(version))

    def forget(self, name: str) -> None:
        """A run or a policy was deleted: nothing acts for it any more."""
        with self._lock:
            for known in [known for known in self._known if known.partition("@")[0] == name]:
                del self._known[known]
            self._last.clear()  # a path may have meant it too

    def _find(self, name: str) -> Found:
        tick = self._clock.now()
        split = None if is_run_id(name) else split_name(name)
        if split is None:
            return self._of_run(name, tick)
        try:
            version = self._policies.find(*split)
        except PolicyNotFound as missing:
            return self._of_run(name, tick, missing)
        key = _key(version)
        model = self._cache.get(key, lambda: self._load_version(version))
        return self._remember(self._known, name, Found(model, version.version, tick, key))

    def _of_run(self, name: str, tick: int, missing: PolicyNotFound | None = None) -> Found:
        run = self._run_named(name, missing)
        checkpoint = run.newest_checkpoint
        if checkpoint is None:
            never = run.state in TERMINAL
            reason = f"ended {run.state} before it had a model" if never else f"is {run.state} and has no model yet"
            raise ModelNotReady(f"Run '{run.run_id}' {reason}")
        key = f"{checkpoint.path}:{checkpoint.manifest_sha256}"
        found = Found(self._cache.get(key, lambda: self._load_checkpoint(checkpoint)), -1, tick, key)
        if run.state in TERMINAL and name == run.run_id:
            self._remember(self._known, name, found)
        return found

    def _run_named(self, name: str, missing: PolicyNotFound | None) -> Run:
        if is_run_id(name):
            return self._registry.get(name)
        run = self._registry.find_by_output_path(name.replace("\\", "/"))
        if run is None:
            # A name with a version can only have meant a policy.
            raise missing if missing is not None and "@" in name else RunNotFound(name)
        return run

    def _let_go(self, model: ActionModel) -> None:
        """The cache has no room for a model any more; nothing else may keep it."""
        with self._lock:
            for where in (self._known, self._last):
                for name in [name for name, found in where.items() if found.model is model]:
                    del where[name]

    def _remember(self, where: OrderedDict[str, Found], name: str, found: Found) -> Found:
        if where.get(name) is not found:
            with self._lock:
                where[name] = found
                while len(where) > _NAMES:
                    where.popitem(last=False)
        return found


def _key(version: PolicyVersion) -> str:
    return f"{version.path}:{version.manifest_sha256}"
