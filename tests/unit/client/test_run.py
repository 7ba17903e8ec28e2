from __future__ import annotations

import threading
import time
from datetime import datetime, timezone
from io import StringIO

import grpc
import numpy as np
import pytest
from google.protobuf import struct_pb2, timestamp_pb2
from rich.console import Console

from auxilium_rl.client import ActError, Client, NotFound, Run, RunFailed, ServerUnavailable
from auxilium_rl.client.progress import show
from auxilium_rl.client.values import RunEvent
from generated import policy_trainer_pb2
from generated.auxilium.v1 import runs_pb2 as pb
from tests.unit.client.double import RUN_ID, Double, Refusal, listening, metric_event, run_message, status_event

LOST = Refusal(grpc.StatusCode.UNAVAILABLE, "connection lost")
NOON = 1_700_000_000


@pytest.fixture
def run(client: Client) -> Run:
    return Run(client, RUN_ID)


def metric_ids(events: list[RunEvent]) -> list[int]:
    return [metric.id for event in events for metric in event.metrics]


def test_status_tells_everything(run: Run, double: Double) -> None:
    hyperparameters = struct_pb2.Struct()
    hyperparameters.update({"n_steps": 64, "gamma": 0.5, "policy_kwargs": {"net_arch": [8]}})
    double.runs[RUN_ID] = run_message(
        "WAITING",
        state_reason="simulator away",
        timesteps_done=7,
        seed=3,
        environment=pb.EnvironmentSource(uri="grpc://h:1", gym_ids=["a"], lanes=1, observation_dim=4, action_dim=2),
        hyperparameters=hyperparameters,
        created_at=timestamp_pb2.Timestamp(seconds=NOON),
        checkpoints=[pb.Checkpoint(timesteps=5, path="p", sha256="s", kind="final")],
        queue_position=2,
        engine="fast",
    )
    status = run.status()
    assert (status.state, status.state_reason, status.is_done) == ("WAITING", "simulator away", False)
    assert (status.environment, status.gym_ids, status.lanes) == ("grpc://h:1", ("a",), 1)
    assert (status.observation_dim, status.action_dim, status.max_steps) == (4, 2, 0)
    assert repr(status.hyperparameters["n_steps"]) == "64"
    assert status.hyperparameters == {"n_steps": 64, "gamma": 0.5, "policy_kwargs": {"net_arch": [8]}}
    assert status.created_at == datetime.fromtimestamp(NOON, timezone.utc)
    assert (status.started_at, status.finished_at) == (None, None)
    assert [(c.timesteps, c.path, c.sha256, c.kind, c.created_at) for c in status.checkpoints] == [
        (5, "p", "s", "final", None)
    ]
    assert (status.queue_position, status.engine, status.seed) == (2, "fast", 3)


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_a_run_that_ended_is_done(state: str, run: Run, double: Double) -> None:
    double.runs[RUN_ID] = run_message(state)
    assert run.status().is_done


def test_stop(run: Run, double: Double) -> None:
    assert run.stop().state == "RUNNING"
    run.stop(immediate=True)
    assert [request.immediate for request in double.sent(pb.StopRunRequest)] == [False, True]


@pytest.mark.parametrize("observation", [[1, 2.5], (1.0, 2.5), np.array([1.0, 2.5]), np.array([1.0, 2.5], np.float32)])
def test_act(observation: object, run: Run, double: Double) -> None:
    assert run.act(observation) == 2  # type: ignore[arg-type]
    (request,) = double.sent(policy_trainer_pb2.ActRequest)
    assert (request.run_id, list(request.observation)) == (RUN_ID, [1.0, 2.5])


def test_act_tells_the_servers_message(run: Run, double: Double) -> None:
    double.answers["Act"] = [policy_trainer_pb2.ActResponse(error_message="no model yet")]
    with pytest.raises(ActError, match="no model yet"):
        run.act([1.0])


@pytest.mark.parametrize("observation", [["a"], None, "12", {"speed": None}])
def test_act_takes_no_other_observation(observation: object, run: Run, double: Double) -> None:
    with pytest.raises(ActError, match="a list of them or a map of these is accepted"):
        run.act(observation)  # type: ignore[arg-type]
    assert not double.requests


def test_watch_goes_on_where_a_lost_stream_was(run: Run, double: Double) -> None:
    double.streams = [
        [status_event(), metric_event(1, 2), metric_event(3), status_event(), metric_event(4), LOST],
        [status_event(), LOST],
        [status_event(), metric_event(5), status_event(), metric_event(6), status_event("SUCCEEDED")],
    ]
    events = list(run.watch())
    assert metric_ids(events) == [1, 2, 3, 4, 5, 6]
    assert [request.after_metric_id for request in double.sent(pb.WatchRunRequest)] == [0, 4, 4]
    assert events[-1].status is not None
    assert events[-1].status.state == "SUCCEEDED"


def test_watch_begins_after_a_metric(run: Run, double: Double) -> None:
    double.streams = [[status_event("STOPPED"), metric_event(8), status_event("STOPPED")]]
    assert metric_ids(list(run.watch(7))) == [8]
    assert double.sent(pb.WatchRunRequest)[0].after_metric_id == 7


def test_a_run_that_ended_is_not_over_before_its_history_came(run: Run, double: Double) -> None:
    double.streams = [
        [status_event("SUCCEEDED"), LOST],
        [status_event("SUCCEEDED"), metric_event(1), status_event("SUCCEEDED")],
    ]
    assert metric_ids(list(run.watch())) == [1]


def test_a_stream_lost_after_the_end_was_told_is_not_taken_up_again(run: Run, double: Double) -> None:
    double.streams = [[status_event(), status_event(), status_event("SUCCEEDED"), LOST]]
    assert len(list(run.watch())) == 3
    assert len(double.sent(pb.WatchRunRequest)) == 1


def test_a_stream_that_ends_before_the_run_is_taken_up_again(run: Run, double: Double) -> None:
    double.streams = [[status_event(), status_event()], [status_event(), status_event(), status_event("STOPPED")]]
    assert len(list(run.watch())) == 5


def test_watch_survives_a_server_that_restarts(double: Double) -> None:
    seen: list[int] = []
    heard = threading.Event()

    def watch(run: Run) -> None:
        for event in run.watch():
            seen.extend(metric_ids([event]))
            if seen:
                heard.set()

    with listening(double) as port:
        client = Client(f"127.0.0.1:{port}", connect_timeout=15.0)
        double.streams = [[status_event(), metric_event(1), status_event(), threading.Event()]]
        watcher = threading.Thread(target=watch, args=(Run(client, RUN_ID),))
        watcher.start()
        assert heard.wait(5)
    second = Double()
    second.streams = [[status_event(), status_event(), metric_event(2), status_event("SUCCEEDED")]]
    with client, listening(second, port):
        watcher.join(10)
    assert seen == [1, 2]
    assert second.sent(pb.WatchRunRequest)[0].after_metric_id == 1


def test_watch_of_an_unknown_run(client: Client) -> None:
    with pytest.raises(NotFound):
        list(Run(client, "no").watch())


def test_watch_says_when_the_server_does_not_come_back(client: Client, double: Double) -> None:
    client.connect_timeout = 0.3
    double.streams = [[status_event(), LOST]]
    double.answers["GetRun"] = [LOST] * 100
    with pytest.raises(ServerUnavailable, match=r"no server answered at .* within 0\.3 s"):
        list(Run(client, RUN_ID).watch())


@pytest.mark.parametrize("lost", [False, True], ids=["silent", "lost"])
def test_wait_ends_at_its_timeout(lost: bool, run: Run, double: Double) -> None:
    double.streams = [[status_event(), status_event(), LOST if lost else threading.Event()]]
    double.answers["GetRun"] = [LOST] * 1000
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=f"run {RUN_ID} goes on"):
        run.wait(timeout=0.4)
    assert 0.39 < time.monotonic() - began < 2.0


def test_wait_gives_the_last_status(run: Run, double: Double) -> None:
    double.streams = [[status_event(), status_event(), status_event("SUCCEEDED", timesteps_done=100)]]
    status = run.wait()
    assert (status.state, status.timesteps_done) == ("SUCCEEDED", 100)


def test_a_failed_run_is_raised_with_its_log(run: Run, double: Double) -> None:
    failed = status_event("FAILED", error_message="the lane sent NaN", log_tail="line 1\nline 2")
    double.streams = [[failed, failed], [failed, failed]]
    with pytest.raises(RunFailed, match=r"failed: the lane sent NaN\nline 1\nline 2") as raised:
        run.wait()
    assert raised.value.log_tail == "line 1\nline 2"
    assert run.wait(raise_on_failure=False).error_message == "the lane sent NaN"


def test_metrics_are_the_history_and_do_not_wait(run: Run, double: Double) -> None:
    live = threading.Event()
    for _ in range(2):
        double.streams.append(
            [status_event(), metric_event(1, 2), metric_event(3, key="time/fps"), status_event(), live]
        )
    assert [(m.id, m.step, m.value) for m in run.metrics("rollout/ep_rew_mean")] == [(1, 10, 1.0), (2, 20, 2.0)]
    assert [m.key for m in run.metrics()][-1] == "time/fps"
    live.set()


def test_metrics_are_asked_for_again_after_a_loss(run: Run, double: Double) -> None:
    history = [status_event(), metric_event(1), status_event()]
    double.streams = [[status_event(), metric_event(1), LOST], history]
    assert [m.id for m in run.metrics()] == [1]


def test_half_a_history_is_no_history(run: Run, double: Double) -> None:
    double.streams = [[status_event(), metric_event(1)]]
    with pytest.raises(ServerUnavailable, match="before it had told every metric"):
        run.metrics()


EVENTS = [
    status_event(timesteps_done=10, steps_per_second=1234),
    metric_event(5),
    status_event(timesteps_done=20),
    status_event("WAITING", timesteps_done=20, state_reason="the simulator [a] is away"),
    status_event("SUCCEEDED", timesteps_done=104),
]


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "bar"])
def test_progress(terminal: bool) -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    passed = list(show(iter([RunEvent.of(event) for event in EVENTS]), console))
    assert passed == [RunEvent.of(event) for event in EVENTS]
    text = out.getvalue()
    assert "the simulator [a] is away" in text
    assert "reward 5.0" in text
    if not terminal:
        assert "\x1b" not in text
        lines = text.splitlines()
        assert [line.split()[0] for line in lines] == ["RUNNING", "WAITING", "SUCCEEDED"]
        assert "10/100 timesteps" in lines[0]
        assert "1,234 steps/s" in lines[0]
    else:
        assert "100/100" in text
