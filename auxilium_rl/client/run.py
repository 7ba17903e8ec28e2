"""A run, from the outside."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auxilium_rl.client.agents import AgentStatus
from auxilium_rl.client.episode import Episode, act_request
from auxilium_rl.client.errors import ActError, RunFailed, ServerUnavailable, translated
from auxilium_rl.client.start_request import clone_request, other_environment
from auxilium_rl.client.values import Metric, RunEvent, RunStatus
from generated.auxilium.v1 import experience_pb2
from generated.auxilium.v1 import runs_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["Run"]

_PAUSE, _MAX_PAUSE = 0.1, 2.0
"""Seconds before a lost stream is taken up again: at first, and at most."""
_HISTORY_TIMEOUT = 120.0


class Run:
    """A run on a server; ``run_id`` finds it again."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"Run({self.run_id!r})"

    def status(self) -> RunStatus:
        """The run as it is now. Raises NotFound."""
        return RunStatus.of(self._client.call(self._client.runs_stub.GetRun, pb.GetRunRequest(run_id=self.run_id)))

    def stop(self, *, immediate: bool = False) -> RunStatus:
        """Ask the run to stop; it saves its model at the next learning boundary, or at the next step."""
        request = pb.StopRunRequest(run_id=self.run_id, immediate=immediate)
        return RunStatus.of(self._client.call(self._client.runs_stub.StopRun, request))

    def pause(self) -> RunStatus:
        """Ask the run to save itself and give its place to others. Raises ClientError when it has ended."""
        return RunStatus.of(self._client.call(self._client.runs_stub.PauseRun, pb.PauseRunRequest(run_id=self.run_id)))

    def resume(self) -> RunStatus:
        """Let a paused run go on. Raises ClientError when it has ended."""
        request = pb.ResumeRunRequest(run_id=self.run_id)
        return RunStatus.of(self._client.call(self._client.runs_stub.ResumeRun, request))

    def retry(self, *, from_start: bool = False, env: str = "", gym_ids: Sequence[str] = (), lanes: int = 0) -> Run:
        """The same again, as a run of its own, from the newest checkpoint of this one, which FAILED or was STOPPED.

        Args:
            from_start: from nothing instead.
            env: another environment, with its ``gym_ids`` and ``lanes``; empty: the same.
        """
        request = pb.RetryRunRequest(
            run_id=self.run_id,
            from_start=from_start,
            environment=other_environment(env, gym_ids, lanes),
            idempotency_key=uuid.uuid4().hex,
        )
        return self._made(self._client.runs_stub.RetryRun, request)

    def extend(self, additional_timesteps: int, *, env: str = "", gym_ids: Sequence[str] = (), lanes: int = 0) -> Run:
        """A run that goes on where this one ended, for so many timesteps more.

        Args:
            env: another environment, with its ``gym_ids`` and ``lanes``; empty: the same.
        """
        request = pb.ExtendRunRequest(
            run_id=self.run_id,
            additional_timesteps=additional_timesteps,
            environment=other_environment(env, gym_ids, lanes),
            idempotency_key=uuid.uuid4().hex,
        )
        return self._made(self._client.runs_stub.ExtendRun, request)

    def clone(
        self,
        *,
        total_timesteps: int = 0,
        seed: int | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        experiment_id: str = "",
        env: str = "",
        gym_ids: Sequence[str] = (),
        lanes: int = 0,
        model_output_path: str = "",
    ) -> Run:
        """A new run of the same algorithm that begins with the newest weights of this one.

        Args:
            total_timesteps: 0: as many as this one.
            hyperparameters: those that differ.
            experiment_id: empty: the same.
            env: another environment, with its ``gym_ids`` and ``lanes``; empty: the same.
        """
        request = clone_request(
            self.run_id,
            total_timesteps=total_timesteps,
            seed=seed,
            hyperparameters=hyperparameters,
            experiment_id=experiment_id,
            environment=other_environment(env, gym_ids, lanes),
            model_output_path=model_output_path,
            idempotency_key=uuid.uuid4().hex,
        )
        return self._made(self._client.runs_stub.CloneRun, request)

    def delete(self) -> int:
        """Forget the run, which has ended, with its metrics, checkpoints and logs; gives the bytes that were freed."""
        request = pb.DeleteRunRequest(run_id=self.run_id)
        return int(self._client.call(self._client.runs_stub.DeleteRun, request).bytes_freed)

    def _made(self, method: Any, request: Any) -> Run:
        return Run(self._client, self._client.call(method, request).run_id)

    def act(self, observation: Any, *, action_mask: Sequence[bool] = ()) -> int | list[float]:
        """The deterministic action of the run's newest policy: a number, or a list where one number does not say it.

        Args:
            observation: numbers, a list or a numpy array of them, or a map of these.
            action_mask: the legal actions; empty: all.

        Raises:
            ActError: the server cannot act, or this is no observation.
        """
        return self._acted(observation, b"", action_mask)[0]

    def episode(self) -> Episode:
        """Acts through one episode, remembering for policies with an LSTM or stacked frames."""
        return Episode(self._acted)

    def _acted(self, observation: Any, state: bytes, mask: Sequence[bool]) -> tuple[int | list[float], bytes]:
        request = act_request(self.run_id, observation, state, mask)
        answer = self._client.call(self._client.trainer_stub.Act, request)
        if not answer.success:
            raise ActError(answer.error_message)
        return (list(answer.action_values) or int(answer.action)), answer.state

    def watch(self, after_metric_id: int = 0, *, timeout: float | None = None) -> Iterator[RunEvent]:
        """The run, its metrics so far, the run again, then what changes, until it ends.

        A server that goes away is waited for as long as ``connect_timeout`` says, and the stream goes on where it was:
        no metric comes twice, the run's status may.

        Args:
            timeout: in seconds; None: until the run ends.

        Raises:
            ServerUnavailable: the server went away and did not come back.
            NotFound: there is no such run.
            TimeoutError: ``timeout`` seconds passed; the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last, pause = after_metric_id, _PAUSE
        while True:
            statuses, done = 0, False
            try:
                with translated(self._client.address):
                    for event in self._stream(last, deadline):
                        last = event.metrics[-1].id if event.metrics else last
                        if event.status is not None:
                            statuses, done = statuses + 1, event.status.is_done
                        yield event
            except ServerUnavailable:
                done = done and statuses > 1  # after the first status the history was still to come
            if done:
                return
            pause = _PAUSE if statuses > 1 else min(2 * pause, _MAX_PAUSE)
            self._wait_for_server(pause, deadline)

    def _stream(self, last: int, deadline: float | None) -> Iterator[RunEvent]:
        request = pb.WatchRunRequest(run_id=self.run_id, after_metric_id=last)
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        call = self._client.runs_stub.WatchRun(request, timeout=left)
        try:
            for event in call:
                yield RunEvent.of(event)
        finally:
            call.cancel()

    def _wait_for_server(self, pause: float, deadline: float | None) -> None:
        """Come back when the server answers again; ``deadline`` passing is a TimeoutError."""
        left = math.inf if deadline is None else max(deadline - time.monotonic(), 0.0)
        time.sleep(min(pause, left))
        patience = min(self._client.connect_timeout, left - pause)
        try:
            if patience > 0 or deadline is None:
                self._client.call(self._client.runs_stub.GetRun, pb.GetRunRequest(run_id=self.run_id), patience)
                return
        except ServerUnavailable:
            if patience == self._client.connect_timeout:
                raise
        raise TimeoutError(f"run {self.run_id} goes on; nobody waits for it any more")

    def agents(self) -> list[AgentStatus]:
        """Every agent that ever joined, by its id."""
        request = experience_pb2.ListAgentsRequest(run_id=self.run_id)
        answer = self._client.call(self._client.experience_stub.ListAgents, request)
        return [AgentStatus.of(one) for one in answer.agents]

    def metrics(self, key: str | None = None) -> list[Metric]:
        """Every metric stored so far, or those of one key, in order."""
        found = self._client.call(self._history, pb.WatchRunRequest(run_id=self.run_id))
        return [metric for metric in found if key is None or metric.key == key]

    def _history(self, request: pb.WatchRunRequest, timeout: float) -> list[Metric]:
        """The metrics between the stream's first status and its second, which marks the end of the history."""
        found: list[Metric] = []
        statuses = 0
        call = self._client.runs_stub.WatchRun(request, timeout=max(timeout, _HISTORY_TIMEOUT))
        try:
            for event in map(RunEvent.of, call):
                found.extend(event.metrics)
                statuses += event.status is not None
                if statuses == 2:
                    return found
        finally:
            call.cancel()
        raise ServerUnavailable(f"the server at {self._client.address} ended before it had told every metric")

    def wait(self, timeout: float | None = None, *, progress: bool = False, raise_on_failure: bool = True) -> RunStatus:
        """Wait until the run has ended.

        Args:
            timeout: in seconds; None: as long as it takes.
            progress: show a live bar on the terminal.

        Raises:
            TimeoutError: the run goes on, but nobody waits any more.
            RunFailed: the run ended FAILED, unless ``raise_on_failure`` is False.
        """
        events = self.watch(timeout=timeout)
        if progress:
            from auxilium_rl.client.progress import show

            events = show(events)
        status: RunStatus | None = None
        for event in events:
            status = event.status or status
        if status is None:
            return self.status()
        if status.state == "FAILED" and raise_on_failure:
            raise RunFailed(f"run {self.run_id} failed: {status.error_message}", status.log_tail)
        return status
