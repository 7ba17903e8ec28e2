"""Answers ``Act`` from served artifacts, keeping the models it used last."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from auxilium_rl.core.dto import Action, Checkpoint, Run
from auxilium_rl.core.errors import InvalidRequest, ModelNotReady, RunNotFound, StoreUnavailable
from auxilium_rl.core.ports import ActionModel, RunRegistry
from auxilium_rl.core.states import TERMINAL

__all__ = ["ActingService"]

_RUN_ID = re.compile(r"[0-9a-f]{32}")


class ActingService:
    """Finds the model that a caller means and asks it.

    A run that has ended never changes, so its model is found without the registry; a run that trains and a path are
    looked up at every call, because a newer model may have come. While registry or store are away, the model that
    answered last for a name goes on answering.

    Args:
        load: makes a model of a checkpoint; slow.
        capacity: how many loaded models are kept.
    """

    def __init__(self, registry: RunRegistry, load: Callable[[Checkpoint], ActionModel], capacity: int) -> None:
        self._registry = registry
        self._load = load
        self._capacity = capacity
        self._models: OrderedDict[str, Future[ActionModel]] = OrderedDict()
        self._settled: OrderedDict[str, ActionModel] = OrderedDict()
        self._last: OrderedDict[str, ActionModel] = OrderedDict()
        self._lock = threading.Lock()

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
            name: a run id, or the ``model_output_path`` of a finished run.
            observation: as many finite numbers as the run's observations have.
            state: of the answer before, for policies that remember; empty: an episode begins.
            mask: the legal actions; empty: all.
            keys: of a Dict, its leaves in the order given; empty: in the simulator's order.

        Raises:
            RunNotFound: neither a run nor a path of a finished run.
            ModelNotReady: the run has no model yet, or never will.
            InvalidRequest: wrong length, NaN or infinity; a number, state or mask that the policy cannot take.
            ModelCorrupt: the stored model is not the one that was recorded.
        """
        model = self._settled.get(name) or self._found(name)
        if len(observation) != model.observation_dim:
            raise InvalidRequest.of(
                "observation", f"{len(observation)} values given; this policy takes {model.observation_dim}"
            )
        if not math.isfinite(sum(observation)):
            index, value = next((n, v) for n, v in enumerate(observation) if not math.isfinite(v))
            raise InvalidRequest.of("observation", f"value {index} is {value}; every value must be finite")
        return model.act(observation, state, mask, keys)

    def forget(self, run_id: str) -> None:
        """A run was deleted: nothing acts for it any more."""
        with self._lock:
            self._settled.pop(run_id, None)
            self._last.clear()  # a path may have meant it too

    def _found(self, name: str) -> ActionModel:
        try:
            model = self._find(name)
        except StoreUnavailable:
            known = self._last.get(name)
            if known is None:
                raise
            return known
        if self._last.get(name) is not model:
            with self._lock:
                self._last[name] = model
                while len(self._last) > self._capacity:
                    self._last.popitem(last=False)
        return model

    def _find(self, name: str) -> ActionModel:
        run = self._run_named(name)
        checkpoint = run.newest_checkpoint
        if checkpoint is None:
            never = run.state in TERMINAL
            reason = f"ended {run.state} before it had a model" if never else f"is {run.state} and has no model yet"
            raise ModelNotReady(f"Run '{run.run_id}' {reason}")
        model = self._loaded(checkpoint)
        if run.state in TERMINAL and name == run.run_id:
            with self._lock:
                self._settled[name] = model
                while len(self._settled) > self._capacity:
                    self._settled.popitem(last=False)
        return model

    def _run_named(self, name: str) -> Run:
        if _RUN_ID.fullmatch(name):
            return self._registry.get(name)
        run = self._registry.find_by_output_path(name.replace("\\", "/"))
        if run is None:
            raise RunNotFound(name)
        return run

    def _loaded(self, checkpoint: Checkpoint) -> ActionModel:
        """The model of a checkpoint, loaded once however many ask at the same time."""
        key = f"{checkpoint.path}:{checkpoint.manifest_sha256}"
        with self._lock:
            future = self._models.get(key)
            if future is not None:
                self._models.move_to_end(key)
            else:
                mine = self._models[key] = Future()
                while len(self._models) > self._capacity:
                    self._models.popitem(last=False)
        if future is not None:
            return future.result()
        try:
            mine.set_result(self._load(checkpoint))
        except BaseException as error:
            with self._lock:
                self._models.pop(key, None)
            mine.set_exception(error)
            raise
        return mine.result()
