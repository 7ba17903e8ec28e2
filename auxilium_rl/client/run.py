"""A run, from the outside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from auxilium_rl.client.errors import ActError, RunFailed, ServerUnavailable, translated
from auxilium_rl.client.values import Metric, RunEvent, RunStatus
from generated import policy_trainer_pb2
from generated.auxilium.v1 import runs_pb2 as pb

if TYPE_CHECKING:
    from auxilium_rl.client.client import Client

__all__ = ["Run"]


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

    def act(self, observation: Sequence[float]) -> int:
        """The deterministic action of the run's newest policy. Raises ActError."""
        request = policy_trainer_pb2.ActRequest(run_id=self.run_id, observation=observation)
        answer = self._client.call(self._client.trainer_stub.Act, request)
        if not answer.success:
            raise ActError(answer.error_message)
        return int(answer.action)

    def watch(self, after_metric_id: int = 0, *, timeout: float | None = None) -> Iterator[RunEvent]:
        """The run, its metrics so far, the run again, then what changes, until it ends.

        A server that goes away is waited for as long as ``connect_timeout`` says, and the stream goes on where it was.

        Args:
            timeout: in seconds; None: until the run ends.

        Raises:
            ServerUnavailable: the server went away and did not come back.
            NotFound: there is no such run.
            TimeoutError: ``timeout`` seconds passed; the run goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last = after_metric_id
        while True:
            ended = False
            try:
                with translated(self._client.address):
                    for event in self._stream(last, deadline):
                        last = event.metrics[-1].id if event.metrics else last
                        ended = event.status.is_done if event.status is not None else ended
                        yield event
            except ServerUnavailable:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"run {self.run_id} goes on after {timeout:g} s") from None
            if ended:
                return
            self.status()  # waits for a server that went away

    def _stream(self, last: int, deadline: float | None = None) -> Iterator[RunEvent]:
        request = pb.WatchRunRequest(run_id=self.run_id, after_metric_id=last)
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        call = self._client.runs_stub.WatchRun(request, timeout=left)
        try:
            for event in call:
                yield RunEvent.of(event)
        finally:
            call.cancel()

    def metrics(self, key: str | None = None) -> list[Metric]:
        """Every metric stored so far, or those of one key, in order."""
        found: list[Metric] = []
        with translated(self._client.address):
            runs_seen = 0
            for event in self._stream(0):
                found.extend(event.metrics)
                runs_seen += event.status is not None
                if runs_seen == 2:
                    break
        return [metric for metric in found if key is None or metric.key == key]

    def wait(self, timeout: float | None = None, *, progress: bool = False, raise_on_failure: bool = True) -> RunStatus:
        """Wait until the run has ended.

        Args:
            timeout: in seconds; None: as long as it takes.
            progress: show a live bar on the terminal.

        Raises:
            TimeoutError: the run goes on, but nobody waits any more.
            RunFailed: the run ended FAILED, unless ``raise_on_failure`` is False.
        """
        from auxilium_rl.client.progress import show

        status = self.status()
        events = self.watch(timeout=timeout)
        for event in show(events) if progress else events:
            status = event.status or status
        if status.state == "FAILED" and raise_on_failure:
            raise RunFailed(f"run {self.run_id} failed: {status.error_message}", status.log_tail)
        return status
