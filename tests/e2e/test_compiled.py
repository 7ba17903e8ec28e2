"""What an agent does at every step, compiled, as it is installed where there is a C compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from scripts import dev
from tests.e2e.harness import ROOT

MODULES = ("agent", "backlog", "episode", "seeing", "shelf")


@pytest.fixture(scope="module")
def installed() -> None:
    """Skip where nothing is compiled; where it must be (in CI), fail."""
    code = "import importlib as i; [print(i.import_module('auxilium_rl.agent.' + name).__file__) for name in %r]"
    done = subprocess.run(
        [sys.executable, "-c", code % (MODULES,)], capture_output=True, text=True, check=True, cwd="/"
    )
    found = list(map(Path, done.stdout.split()))
    if not all(file.name.endswith(tuple(EXTENSION_SUFFIXES)) for file in found):
        message = "the agent is interpreted; it needs a C compiler and Python's headers, then: make setup"
        if os.environ.get("AUXILIUM_ALL_LANGUAGES"):
            pytest.fail(message)
        pytest.skip(message)
    if dev.STAMP.exists():
        assert dev.STAMP.read_text().split() == dev.state(), "what is compiled has changed: make setup"


def passes(*tests: str) -> None:
    """Tests in a process of their own, which does not interpret what is compiled."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=ROOT, env={**env, "AUXILIUM_TEST_COMPILED": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.usefixtures("installed")
def test_it_does_the_same() -> None:
    numbers = "tests/e2e/test_agents.py::test_numbers_as_systems_have_them"
    passes("tests/unit/agent", numbers)


@pytest.mark.long
@pytest.mark.usefixtures("installed")
def test_it_does_the_same_over_real_servers() -> None:
    passes("tests/e2e/test_agents.py", "tests/e2e/test_rl4sys.py", "tests/faults/test_experience.py")


def test_without_a_compiler_it_is_interpreted(tmp_path: Path) -> None:
    """It installs, and says why it will be slower."""
    command = [sys.executable, str(ROOT / "setup.py"), "-q", "build", "--build-base", str(tmp_path / "build")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CC": "/nowhere/cc"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "failed: " in done.stderr, done.stderr
    assert "/nowhere/cc" in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.so"))
    assert list(tmp_path.rglob("auxilium_rl/agent/seeing.py"))


def test_what_was_compiled_before_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be made again it would be run in the place of what is there now."""
    old = tmp_path / "auxilium_rl" / "agent" / f"shelf{EXTENSION_SUFFIXES[0]}"
    old.parent.mkdir(parents=True)
    old.touch()
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    installed: list[list[str]] = []
    monkeypatch.setattr(dev, "run", installed.append)
    dev.compile_agent()
    assert not old.exists()
    assert [command[-1] for command in installed] == [str(tmp_path)]
