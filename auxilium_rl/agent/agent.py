"""``Agent``: acts in its caller's process and lets a server learn."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import uuid
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import structlog
from mypy_extensions import mypyc_attr

from auxilium_rl.agent.backlog import Backlog
from auxilium_rl.agent.config import AgentConfig
from auxilium_rl.agent.episode import UNHEARD, UNSENT, UNTAKEN, Episode, Step
from auxilium_rl.agent.link import Link
from auxilium_rl.agent.outbox import Outbox, Undelivered
from auxilium_rl.agent.packing import Packer, own_buffer, steps_that_fit
from auxilium_rl.agent.packing_thread import PackingThread
from auxilium_rl.agent.seeing import Eye
from auxilium_rl.client import Client
from auxilium_rl.client.agents import Agents
from auxilium_rl.client.errors import ActError, ClientError, InvalidArgument, NotFound
from auxilium_rl.client.local_policy import LocalPolicy
from auxilium_rl.inference.refused import Refused
from auxilium_rl.inference.sampling import Sampler, SplitMix64
from auxilium_rl.wire.rows import AnySpace
from auxilium_rl.wire.spaces import mask_length, space_message
from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["Agent"]

_log = structlog.get_logger(__name__)
_PATIENCE = 60.0
_PATIENT = 50
"""Tenths of a second without the next version, after which the log says what may be missing."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Agent:
    """An agent inside of a system; a context manager.

    It acts with the newest version that has come, and never waits for the network to do so; but it waits where it was
    told to: ``synchronous``, for the next version; ``overflow="wait"``, while too many steps are on their way.

    Attributes:
        unfinished: steps of episodes that were under way at ``close`` and could not be sent.
        unkept: steps that were taken when the run had ended, or the server had refused this agent for good.

    Args:
        observation_space, action_space: of the system it lives in.
        masked: whether actions have masks.
        config: an ``AgentConfig``, or a file of one; ``settings`` are its attributes, and count more.

    Raises:
        InvalidArgument: names every field at fault; also where the spaces are not those of the run.
        TimeoutError: no server, or no version of the policy, within a minute.
        ClientError: the run has ended, or the server refuses.
    """

    def __init__(
        self,
        observation_space: AnySpace,
        action_space: AnySpace,
        *,
        masked: bool = False,
        config: AgentConfig | str | Path | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(config, AgentConfig):
            self.config = AgentConfig(**{**vars(config), **settings})
        else:
            self.config = AgentConfig(**settings) if config is None else AgentConfig.of_file(config, **settings)
        self._mask_len = mask_length(action_space) if masked else 0
        self._eye = Eye(observation_space, action_space, self._mask_len)
        self._client = Client(self.config.address, connect_timeout=self.config.join_seconds)
        self._queue = self.config.queue_steps
        self._acting = threading.Lock()
        self._closed = False
        self._backlog = Backlog(secrets.randbits(40) << 20)
        self._completed, self._acted_with = 0, -1
        self.unfinished = self.unkept = 0
        self._rng = SplitMix64(self.config.seed if self.config.seed is not None else secrets.randbits(64))
        self._link: Link | None = None
        self._packing: PackingThread | None = None
        try:
            self._join(observation_space, action_space)
        except BaseException:
            self._hang_up()
            raise

    def _join(self, observation: AnySpace, action: AnySpace) -> None:
        config = self.config
        self.run_id = config.run_id or self._started(observation, action)
        self._quota, self._explores, self._deaf = 0, config.explore, not config.explore
        if config.explore:
            self._outbox, incarnation = self._opened()
            buffer = own_buffer(config.buffer)
            join = pb.Join(
                run_id=self.run_id,
                agent_id=config.name,
                incarnation=incarnation,
                observation=space_message(observation),
                action=space_message(action),
                mask_len=self._mask_len,
                buffer=buffer,
            )
            self._link = Link(self._client.experience_stub, config.address, join, self._outbox, self._heard)
            welcome = self._link.wait_for_welcome(config.join_seconds)
            fit = steps_that_fit(observation, action, self._mask_len, welcome.max_chunk_bytes)
            asked = min(config.chunk_steps, config.chunk_bytes // self._eye.step_bytes)
            self._quota, self._chunk = welcome.quota, max(min(asked, fit), 1)
        self._await_run()
        self._policy = LocalPolicy(
            self._client,
            self.run_id,
            config.join_seconds,
            lambda graph, description: Sampler(graph, description, config.noise),
        )
        if config.explore:
            packer = Packer(self._eye.counted, self._eye.counted_action, self._mask_len, config.compress, buffer)
            self._packing = PackingThread(
                self._backlog, packer, self._outbox, self._chunk, config.chunk_seconds, lambda: self.run_ended
            )

    def _started(self, observation: AnySpace, action: AnySpace) -> str:
        """The run of the experiment: whoever asks first starts it, the others get the same one."""
        config = self.config
        agents = Agents(
            observation, action, self._mask_len, synchronous=config.synchronous, max_staleness=config.max_staleness
        )
        run = self._client.train(
            config.algorithm,
            env="agents",
            total_timesteps=config.total_timesteps,
            experiment_id=config.experiment_id,
            lanes=config.agents,
            seed=config.seed,
            hyperparameters=config.hyperparameters,
            policy_name=config.policy_name,
            agents=agents,
            idempotency_key=f"agents:{config.experiment_id}",
        )
        return run.run_id

    def _await_run(self) -> None:
        """Wait until the run has published what to act with. Raises ClientError, TimeoutError."""
        run, seconds, state = self._client.run(self.run_id), self.config.join_seconds, "unknown"
        with suppress(TimeoutError):
            for event in run.watch(timeout=seconds):
                with suppress(NotFound):
                    self._client.policy(self.run_id).version()
                    return
                if event.status is not None:
                    state = event.status.state
                    if event.status.is_done:
                        why = event.status.error_message or "it has ended"
                        raise ClientError(f"run '{self.run_id}' is {state}: {why}")
        raise TimeoutError(f"run '{self.run_id}' published nothing within {seconds:g} s; it is {state}")

    def _opened(self) -> tuple[Outbox, str]:
        """The outbox, with what an earlier start of this agent could not deliver, and the incarnation it belongs to."""
        if not self.config.spill_dir:
            return Outbox(self.config.queue_steps, None), uuid.uuid4().hex
        name = hashlib.sha256(f"{self.run_id}/{self.config.name}".encode()).hexdigest()[:16]
        root = Path(self.config.spill_dir) / name
        left = sorted(path for path in root.glob("*") if any(path.glob("*.chunk")))
        incarnation = left[0].name if left else uuid.uuid4().hex
        folder = root / incarnation
        folder.mkdir(parents=True, exist_ok=True)
        outbox = Outbox(self.config.queue_steps, folder)
        steps = outbox.load()
        if steps:
            _log.info("agent_goes_on", steps=steps, incarnation=incarnation[:8])
        return outbox, incarnation

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- acting

    @property
    def version(self) -> int:
        """Of the policy that acts now."""
        return self._policy.made[1]

    @property
    def run_ended(self) -> bool:
        """Whether the run takes no more: the agent still acts, and nothing more is sent."""
        return self._link is not None and bool(self._link.ended)

    def act(self, observation: Any, mask: Any = None, *, episode: Hashable | None = "") -> Step:
        """Choose an action.

        Args:
            observation: an element of the observation space, as the system has it.
            mask: the legal actions ``(mask_len,)``; None: all.
            episode: which of several at once, by name or number; the first step of it begins it. None: the action is
                chosen and not yet taken; ``record`` it when it is.

        Raises:
            ActError: this is no observation, or nothing is legal.
            InvalidArgument: ``episode`` can be no key.
            ClientError: acting goes on without a place for what comes of it (see ``AgentConfig.queue_steps``).
        """
        # In one piece: to a system that asks often, a few calls more are as long as what they do.
        with self._acting:
            row, legal, step = self._eye.see(observation, mask)
            now = None
            if not self._deaf and episode is not None:
                now = self._backlog.of(episode)
                if now is None or self._quota:
                    now = self._under_way(episode, step)
            made: tuple[Sampler, int] = self._policy.made
            try:
                drawn = made[0].draw(row, self._rng, legal) if self._explores else made[0].best(row, legal)
            except Refused as refused:
                raise ActError(str(refused)) from refused
            step.version, step.taken, step.log_prob = made[1], drawn.taken, drawn.log_prob
            start = self._eye.start
            step.action = self._eye.native(drawn.sent) if start is None else drawn.sent + start
            if now is None:
                if episode is not None:
                    return self._unkept(step)
                step.episode, step.number, step.lies = UNTAKEN, 0, step.shelf.as_it_lies()
                return step
            waiting = self._backlog.add(now, step)
            if waiting % self._chunk == 0 or waiting >= self._queue or self._outbox.is_full:
                self._attend(waiting)
            return step

    def choose(self, observation: Any, mask: Any = None) -> Step:
        """Choose an action without taking it; ``record`` it when it is taken. Raises as ``act`` does."""
        return self.act(observation, mask, episode=None)

    def record(self, step: Step, *, episode: Hashable = "") -> Step:
        """An action that was chosen was taken, as the next step of an episode.

        Raises:
            InvalidArgument: it was recorded already.
            ClientError: as ``act`` does.
        """
        with self._acting:
            if step.episode is not UNTAKEN:
                raise InvalidArgument.of("step", "it was recorded already; one that was chosen and not yet is accepted")
            if self._deaf:
                return self._unkept(step)
            step.stay()
            waiting = self._backlog.add(self._under_way(episode, step), step)
            step.lies = None  # not before: it may be recorded again when that was refused
            self._attend(waiting)
            return step

    @property
    def _unheard(self) -> bool:
        """Whether nothing more will be sent."""
        link = self._link
        return self._closed or (link is not None and (link.final or bool(link.ended)))

    def _heard(self) -> None:
        """Something became of the connection."""
        self._deaf = self._unheard  # kept, not computed: whoever acts asks at every step
        self._wake()

    def _under_way(self, name: Hashable, step: Step) -> Episode:
        """The episode of a name, in which this is seen now."""
        now = self._backlog.of(name)
        if self._quota:
            self._complete(now is not None and self._backlog.saw(now, step.seen))
            if self._completed >= self._quota:
                self._await_next()
        return now or self._backlog.begin(name)

    def _unkept(self, step: Step) -> Step:
        """Nobody is told of it."""
        self.unkept += self._explores
        step.episode, step.number = UNHEARD if self._explores else UNSENT, 0
        return step

    def _attend(self, waiting: int) -> None:
        """Have what waits packed, and wait while there is no place for more."""
        if waiting % self._chunk == 0:
            self._wake()
        if waiting >= self._queue or self._outbox.is_full:
            self._make_room()

    def end(
        self,
        *,
        terminated: bool | np.bool_ = False,
        truncated: bool | np.bool_ = False,
        final_obs: Any = None,
        episode: Hashable = "",
        rewards_follow: bool = False,
    ) -> None:
        """The episode is over.

        Args:
            terminated: it came to its end. truncated: it was cut off, and ``final_obs`` is what was seen last.
            rewards_follow: steps without a reward wait for it, until ``flush`` or ``close``; else it is 0.

        Raises:
            InvalidArgument: not one of the two, no ``final_obs`` where it is needed, or there is no such episode.
        """
        if bool(terminated) == bool(truncated):
            both = f"{terminated} and truncated: {truncated} given; one of them is accepted"
            raise InvalidArgument.of("terminated", both)
        if truncated and final_obs is None:
            raise InvalidArgument.of("final_obs", "none given; a truncated episode is worth what was seen last")
        final = None if final_obs is None else self._eye.apart(final_obs)
        if not self._explores:
            return
        with self._acting:
            if self._backlog.of(episode) is None:
                if self._unheard:
                    return
                known = ", ".join(map(repr, self._backlog.under_way)) or "none"
                raise InvalidArgument.of("episode", f"{episode!r} given, which has not begun; {known} is under way")
            self._complete(self._backlog.end(episode, bool(terminated), final, rewards_follow))
            if self._backlog.steps >= self._chunk:
                self._wake()

    def flush(self, timeout: float = _PATIENCE) -> None:
        """Send everything that is known and wait until it is stored; rewards that were not said are 0 then.

        Raises:
            Undelivered: it was not, in ``timeout`` seconds; it stays here.
            ClientError: it cannot be packed; it stays here.
        """
        if self._packing is not None:
            self._packing.force()
            self._check_packing()
        if self._link is not None and not self._outbox.drained(0) and not self._delivered(timeout):
            why = (
                "the run has ended"
                if self.run_ended
                else f"not within {timeout:g} s: {self._link.fault or 'no answer'}"
            )
            raise Undelivered(self._outbox.steps, f"{self._outbox.steps} steps were not stored: {why}")

    def close(self, timeout: float = _PATIENCE) -> None:
        """Flush, and leave. Unfinished episodes are sent as far as they went.

        Raises:
            Undelivered: the server did not store everything in ``timeout`` seconds; with ``overflow="spill"`` the next
                start of this agent sends it, else it is lost with this object.
        """
        if self._closed:
            return
        lost = 0
        if self._link is not None and self._packing is not None:
            self._packing.force()
            self.unfinished = self._backlog.unfinished()
            self._outbox.close()
            if not self._delivered(timeout) and not self.run_ended:
                lost = self._outbox.steps
        saved = self._outbox.save() if lost else 0
        self._hang_up()
        held, fault = (self._packing.held, self._packing.fault) if self._packing is not None else (0, None)
        if lost or held:
            kept = "they are lost"
            if saved:
                kept = f"the next start of this agent sends {'them' if saved == lost + held else f'{saved} of them'}"
            why = f"; {held} could not be packed: {fault!r}" if held else ""
            raise Undelivered(lost + held, f"{lost + held} steps were not stored within {timeout:g} s; {kept}{why}")

    def _delivered(self, timeout: float) -> bool:
        """Wait until all is stored, or nothing can be any more."""
        until = time.monotonic() + timeout
        assert self._link is not None
        while not self._outbox.drained(min(0.1, max(until - time.monotonic(), 0))):
            if time.monotonic() > until or self._unheard:
                return False
        return True

    def _hang_up(self) -> None:
        self._closed = self._deaf = True
        if self._packing is not None:
            self._packing.close()
        if self._link is not None:
            self._link.close()
        if hasattr(self, "_policy"):
            self._policy.close()
        self._client.close()

    # -- what is on its way

    @property
    def stored(self) -> int:
        """Steps that the server has acknowledged."""
        return self._outbox.acknowledged if self._link is not None else 0

    @property
    def rejected(self) -> int:
        """Steps that the server put aside, with a reason in the log."""
        return self._outbox.rejected if self._link is not None else 0

    @property
    def spilled(self) -> int:
        """Steps that went to files for want of room."""
        return self._outbox.spilled if self._link is not None else 0

    def _complete(self, last: bool) -> None:
        """In synchronous mode so many steps are complete with one version; ``last``: one more is now."""
        version = self.version
        if version != self._acted_with:
            self._acted_with, self._completed = version, 0
        self._completed += last

    def _await_next(self) -> None:
        assert self._link is not None
        version = self._acted_with
        waited = 0
        while not (self._unheard or self._closed):
            self._wake(at_once=True)
            self._check_packing()
            if self._policy.wait_for(version + 1, 0.1):
                break
            waited += 1
            if waited == _PATIENT and (open_steps := self._backlog.steps - self._backlog.ready()):
                _log.warning("agent_waits_for_rewards", steps=open_steps, version=version)
        self._acted_with, self._completed = self.version, 0

    def _make_room(self) -> None:
        """Wait while there is no place for more."""
        self._wake()
        told = False
        while (self._backlog.steps >= self._queue or self._outbox.is_full) and not self._closed:
            if self._unheard:
                return
            self._check_packing()
            if not self._backlog.ready() and not self._outbox.is_full:
                raise ClientError(
                    f"{self._backlog.steps} steps wait for their rewards (queue_steps is {self._queue}); "
                    "say them, or end the episode"
                )
            if not told:
                told = True
                _log.warning("agent_slows_down", unsent=self._backlog.steps, unstored=self._outbox.steps)
            with self._outbox.changed:
                self._outbox.changed.wait(0.01)

    def _wake(self, *, at_once: bool = False) -> None:
        if self._packing is not None:
            self._packing.wake(at_once=at_once)

    def _check_packing(self) -> None:
        fault = self._packing.fault if self._packing is not None else None
        if fault is not None:
            raise ClientError(f"experience cannot be packed, and waits here: {fault!r}") from fault
