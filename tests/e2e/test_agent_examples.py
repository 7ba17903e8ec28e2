"""The examples with agents inside, at small size."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import Server

ROOT = Path(__file__).resolve().parents[2]


def test_a_cache_that_learns_what_to_throw_out(server: Server) -> None:
    program = [sys.executable, str(ROOT / "examples" / "agents" / "cache.py"), server.client.address]
    done = subprocess.run([*program, "--requests", "5000"], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"version (\d+) on ([\d,]+) decisions", done.stdout)
    assert found is not None, done.stdout
    assert int(found[2].replace(",", "")) > 1000
    assert done.stdout.count("%") == 3
    (run,) = server.client.runs(experiment_id="cache")
    server.client.run(run.run_id).stop(immediate=True)


def test_a_scheduler_that_learns_which_job_goes_next(server: Server, tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "examples" / "agents" / "scheduling.py"), server.client.address]
    options = ["--episodes", "40", "--plot", "schedule.png"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "after 10,240 choices" in done.stdout
    found = {
        name.strip(): float(slowdown) for name, slowdown in re.findall(r"(.+)mean bounded slowdown +(.+)", done.stdout)
    }
    assert list(found) == ["learned", "first come", "shortest"]
    assert found["learned"] < 0.8 * found["first come"]
    assert (tmp_path / "schedule.png").stat().st_size > 10_000
    assert (tmp_path / "scheduling.swf").read_text().startswith("; UnixStartTime")
    (run,) = server.client.runs(experiment_id="scheduling")
    assert run.algorithm == "ppo"
    server.client.run(run.run_id).stop(immediate=True)


def test_an_actor_and_a_learner_that_do_not_wait_for_each_other() -> None:
    program = [sys.executable, str(ROOT / "examples" / "agents" / "actor_learner.py"), "both"]
    options = ["--steps", "1000", "--rate", "500", "--demonstrations", "2", "--evaluate", "2"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "400 transitions of demonstrations" in done.stdout
    found = re.search(r"sent ([\d,]+) transitions, ([\d,]+) are stored; ([\d,]+) networks came", done.stdout)
    assert found is not None, done.stdout
    assert found[1] == found[2] == "1,000"
    assert int(found[3]) > 1  # the one before it learned, and one that had learned
    assert re.search(r"^ +1,000 ", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.count("mean return ") == 4
    assert not re.search("error|Traceback", done.stderr), done.stderr


@pytest.mark.skipif(importlib.util.find_spec("Box2D") is None, reason="there is no Box2D for this Python")
def test_one_four_and_sixteen_landers_that_teach_one_policy(server: Server, tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "examples" / "agents" / "lander.py"), server.client.address]
    options = ["--agents", "1", "4", "16", "--steps", "2048", "--rollout", "64", "--experiment", "lander"]
    command = [*program, *options, "--plot", "lander.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for agents in (1, 4, 16):
        assert re.search(rf"^ +{agents} +2,048 +[\d.]+ +[\d,]+ +-?[\d.]+$", done.stdout, re.MULTILINE), done.stdout
        (run,) = server.client.runs(experiment_id=f"lander-{agents}")
        assert server.client.run(run.run_id).wait(timeout=30).timesteps_done == 2048
        assert len(server.client.run(run.run_id).agents()) == agents
    assert (tmp_path / "lander.png").stat().st_size > 10_000


def test_landers_without_their_physics_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    monkeypatch.setattr(sys, "argv", ["lander.py"])
    with pytest.raises(SystemExit, match=r"pip install Box2D==.* pygame=="):
        runpy.run_path(str(ROOT / "examples" / "agents" / "lander.py"), run_name="__main__")
