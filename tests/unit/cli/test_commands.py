from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from typer.testing import CliRunner

from auxilium_rl import __version__
from auxilium_rl.cli.common import EXIT
from auxilium_rl.cli.main import app
from generated import policy_trainer_pb2
from generated.auxilium.v1 import runs_pb2 as pb
from tests.unit.cli.conftest import Auxilium
from tests.unit.client.double import RUN_ID, Double, Refusal, metric_event, run_message, status_event

ENDED = [status_event(), metric_event(4), status_event(), status_event("SUCCEEDED", exported_path="/models/m.zip")]


def sent_start(double: Double) -> pb.StartRunRequest:
    (request,) = double.sent(pb.StartRunRequest)
    return request


def test_train_sends_what_was_said(auxilium: Auxilium, double: Double) -> None:
    result = auxilium(
        *("train", "ppo", "--env", "grpc://h:1", "--steps", "512", "--gym-ids", "a;b", "--lanes", "2", "--detach"),
        *("--observation-dim", "4", "--action-dim", "2", "--max-steps", "9", "--seed", "0", "--experiment", "e"),
        *("--output", "m", "--checkpoint-freq", "64", "-p", "n_steps=64", "-p", "learning_rate=lin_1e-3"),
        *("--parameter", 'policy_kwargs={"net_arch": [8]}', "-p", "target_kl=null", "-p", "use_sde=true"),
    )
    assert (result.exit_code, result.output) == (EXIT.OK, f"run {RUN_ID}\n")
    request = sent_start(double)
    env = request.environment
    assert (env.uri, list(env.gym_ids), env.lanes) == ("grpc://h:1", ["a", "b"], 2)
    assert (env.observation_dim, env.action_dim, env.max_steps) == (4, 2, 9)
    assert (request.experiment_id, request.algorithm, request.total_timesteps) == ("e", "ppo", 512)
    assert request.HasField("seed")
    assert (request.seed, request.model_output_path, request.checkpoint_freq) == (0, "m", 64)
    assert json_format.MessageToDict(request.hyperparameters) == {
        "n_steps": 64.0,
        "learning_rate": "lin_1e-3",
        "policy_kwargs": {"net_arch": [8.0]},
        "target_kl": None,
        "use_sde": True,
    }


@pytest.mark.parametrize(
    ("arguments", "gym_ids"),
    [
        (["--env", "grpc://h:1", "--gym-ids", "a;b"], ["a", "b"]),
        (["--env", "grpc://h:1", "--lanes", "3"], []),
        (["--env", "gym:CartPole-v1", "--lanes", "3"], []),
        ([], []),
    ],
)
def test_train_names_gym_ids_only_where_they_are_given(
    arguments: list[str], gym_ids: list[str], auxilium: Auxilium, double: Double
) -> None:
    assert auxilium("train", "ppo", "--steps", "1", "--detach", *arguments).exit_code == EXIT.OK
    assert list(sent_start(double).environment.gym_ids) == gym_ids


def test_train_follows_with_plain_lines(auxilium: Auxilium, double: Double) -> None:
    double.streams = [ENDED]
    result = auxilium("train", "ppo", "--steps", "100")
    lines = result.output.splitlines()
    assert result.exit_code == EXIT.OK
    assert "\x1b" not in result.output
    assert lines[0] == f"run {RUN_ID}"
    assert lines[1].startswith("RUNNING")
    assert lines[2].startswith("SUCCEEDED")
    assert lines[2].endswith("reward 4.0")
    assert lines[3:] == [f"run {RUN_ID} SUCCEEDED after 0 timesteps", "model /models/m.zip"]


@pytest.mark.parametrize("command", [("train", "ppo", "--steps", "1"), ("runs", "watch", RUN_ID)])
def test_a_failed_run_is_exit_code_1(command: tuple[str, ...], auxilium: Auxilium, double: Double) -> None:
    failed = status_event("FAILED", error_message="lane a sent NaN", log_tail="last [line]")
    double.streams = [[failed, failed]]
    result = auxilium(*command)
    assert result.exit_code == EXIT.FAILED
    assert result.stderr == f"auxilium: run {RUN_ID} failed: lane a sent NaN\nlast [line]\n"


def test_violations_are_listed(auxilium: Auxilium, double: Double) -> None:
    fields = [("seed", "-1 given; 0 or more is accepted"), ("algorithm", "'x' given")]
    double.answers["StartRun"] = [Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no", fields=fields)]
    result = auxilium("train", "x", "--steps", "1", "--seed", "-1")
    assert result.exit_code == EXIT.USAGE
    assert result.stderr == (
        "auxilium: this cannot be accepted:\n  seed: -1 given; 0 or more is accepted\n  algorithm: 'x' given\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("train", "ppo", "--steps", "1", "-p", "gamma"), EXIT.USAGE, "-p gamma: key=value is accepted"),
        (("train", "ppo", "--steps", "1", "-p", "gamma=NaN"), EXIT.USAGE, "hyperparameters.gamma: nan given"),
        (("train", "ppo", "--steps", "9" * 30), EXIT.USAGE, "total_timesteps: 9"),
        (("train", "ppo", "--steps", "many"), EXIT.USAGE, "Invalid value for '--steps'"),
        (("train", "ppo"), EXIT.USAGE, "--steps"),
        (("runs", "list", "--state", "odd"), EXIT.USAGE, "'odd' given; QUEUED"),
        (("runs", "show", "no"), EXIT.NOT_FOUND, "auxilium: Run 'no' not found"),
        (("runs", "watch", "no"), EXIT.NOT_FOUND, "auxilium: Run 'no' not found"),
        (("runs", "stop", "no"), EXIT.NOT_FOUND, "auxilium: Run 'no' not found"),
        (("algorithms", "odd"), EXIT.USAGE, "no algorithm 'odd'; these are: ppo, dqn"),
        (("act", RUN_ID, "1", "two"), EXIT.USAGE, "is not an observation"),
        (("act", RUN_ID, "[1, [2]]"), EXIT.USAGE, "is not an observation"),
        (("act", RUN_ID, "[1,"), EXIT.USAGE, "is not an observation"),
        (("nothing",), EXIT.USAGE, "nothing"),
    ],
)
def test_errors_are_told_without_a_traceback(
    arguments: tuple[str, ...], code: int, text: str, auxilium: Auxilium
) -> None:
    result = auxilium(*arguments)
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_no_server_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auxilium_rl.client.Client", _impatient())
    result = CliRunner().invoke(app, ["runs", "list", "--address", "127.0.0.1:1"])
    assert result.exit_code == EXIT.UNREACHABLE
    assert "no server answered at 127.0.0.1:1" in result.stderr
    assert "start one with `auxilium serve`" in result.stderr


def _impatient() -> Any:
    from auxilium_rl.client import Client

    return lambda address, **_: Client(address, connect_timeout=0.0)


def test_list(auxilium: Auxilium, double: Double) -> None:
    long = "a long name [of] an experiment " * 5
    double.runs = {
        name: run_message(run_id=name * 32, experiment_id=long, timesteps_done=1234, total_timesteps=10000)
        for name in "ab"
    }
    result = auxilium("runs", "list", "--state", "running", "--experiment", "e", "--algorithm", "ppo", "--limit", "1")
    assert result.exit_code == EXIT.OK
    (_, line) = result.stdout.splitlines()
    assert line.split()[:4] == ["a" * 32, "ppo", "RUNNING", "1,234/10,000"]
    assert long.strip() in line
    (request,) = double.sent(pb.ListRunsRequest)
    assert (list(request.states), request.experiment_id, request.algorithm) == ([pb.RUN_STATE_RUNNING], "e", "ppo")
    listed = json.loads(auxilium("runs", "list", "--json").stdout)
    assert [run["run_id"] for run in listed] == ["a" * 32, "b" * 32]


def test_show(auxilium: Auxilium, double: Double) -> None:
    double.runs[RUN_ID].checkpoints.add(timesteps=64, path="/c/model.zip", kind="final")
    double.runs[RUN_ID].created_at.FromSeconds(0)
    plain = auxilium("runs", "show", RUN_ID).stdout
    assert "state              RUNNING\n" in plain
    assert "checkpoint         final at 64: /c/model.zip\n" in plain
    assert "error_message" not in plain
    shown = json.loads(auxilium("runs", "show", RUN_ID, "--json").stdout)
    assert (shown["state"], shown["created_at"], shown["finished_at"]) == ("RUNNING", "1970-01-01T00:00:00+00:00", None)
    assert shown["checkpoints"][0]["timesteps"] == 64


def test_watch(auxilium: Auxilium, double: Double) -> None:
    double.streams = [ENDED]
    result = auxilium("runs", "watch", RUN_ID)
    assert result.exit_code == EXIT.OK
    assert f"run {RUN_ID} SUCCEEDED" in result.stdout


def test_stop(auxilium: Auxilium, double: Double) -> None:
    assert auxilium("runs", "stop", RUN_ID).stdout == f"run {RUN_ID} is RUNNING; it saves its model and stops\n"
    double.runs[RUN_ID] = run_message("STOPPED")
    assert auxilium("runs", "stop", RUN_ID, "--now").stdout == f"run {RUN_ID} is STOPPED\n"
    assert [request.immediate for request in double.sent(pb.StopRunRequest)] == [False, True]


def test_algorithms(auxilium: Auxilium) -> None:
    everything = auxilium("algorithms").stdout
    assert "ppo  Proximal Policy Optimization" in everything
    assert "dqn  Deep Q-Network" in everything
    one = auxilium("algorithms", "ppo").stdout
    assert "dqn" not in one
    assert one.splitlines()[1].split()[:4] == ["n_steps", "int", "2048", "Steps"]
    assert [a["name"] for a in json.loads(auxilium("algorithms", "--json").stdout)] == ["ppo", "dqn"]


@pytest.mark.parametrize(
    "words",
    [("0.5", "-1", "2e-1"), ("-0.5", "-1e-3", ".2"), ("[0.5, -1, 0.2]",), ("0.5,-1,0.2",), ("--", "-1", "0", "1")],
)
def test_act_takes_numbers_in_many_forms(words: tuple[str, ...], auxilium: Auxilium, double: Double) -> None:
    assert auxilium("act", RUN_ID, *words).stdout == "3\n"
    (request,) = double.sent(policy_trainer_pb2.ActRequest)
    assert request.run_id == RUN_ID
    assert -1.0 <= min(request.observation) < 0.0


def test_act_reads_lines(auxilium: Auxilium) -> None:
    assert auxilium("act", RUN_ID, "-", stdin="1 2\n\n[1, -2, 3]\n-4,5,6,7\n").stdout == "2\n3\n4\n"


@pytest.mark.parametrize(
    ("message", "code"), [("Run 'no' not found", EXIT.NOT_FOUND), ("2 values given; takes 4", EXIT.USAGE)]
)
def test_act_tells_the_servers_message(message: str, code: int, auxilium: Auxilium, double: Double) -> None:
    double.answers["Act"] = [policy_trainer_pb2.ActResponse(error_message=message)]
    result = auxilium("act", RUN_ID, "1")
    assert (result.exit_code, result.stderr) == (code, f"auxilium: {message}\n")


@pytest.mark.parametrize(("service", "code", "text"), [("", 0, "SERVING"), ("down", 1, "NOT_"), ("no", 1, "UNKNOWN")])
def test_health(service: str, code: int, text: str, auxilium: Auxilium) -> None:
    result = auxilium("health", "--service", service)
    assert result.exit_code == code
    assert text in result.stdout


def test_version_and_help(auxilium: Auxilium) -> None:
    assert auxilium("--version").stdout == f"auxilium {__version__}\n"
    text = " ".join(auxilium("--help").stdout.split())
    for said in ("0 done", "1 the run failed", "2 wrong", "3 no server", "4 no such run", "130 Ctrl-C"):
        assert said in text
    codes = (EXIT.OK, EXIT.FAILED, EXIT.USAGE, EXIT.UNREACHABLE, EXIT.NOT_FOUND, EXIT.INTERRUPTED)
    assert codes == (0, 1, 2, 3, 4, 130)


@pytest.mark.parametrize("code", [0, 2])
def test_serve_hands_its_options_on(code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import auxilium_rl.app

    given: list[dict[str, object]] = []
    monkeypatch.setattr(auxilium_rl.app, "serve", lambda overrides: given.append(overrides) or code)
    monkeypatch.setenv("AUXILIUM_CONFIG", "")
    options = ["--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path), "--config", "c.toml"]
    assert CliRunner().invoke(app, ["serve", *options]).exit_code == code
    assert CliRunner().invoke(app, ["serve"]).exit_code == code
    assert given == [{"grpc_host": "0.0.0.0", "grpc_port": 0, "data_dir": tmp_path}, {}]
