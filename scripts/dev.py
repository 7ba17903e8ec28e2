"""The newcomer's commands: sets up ``.venv`` by itself, then does what was asked. Needs nothing but Python.

Usage: python scripts/dev.py demo|test|check|bench|soak|proto|faults|setup
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / ".installed"
PIP = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
OLDEST = (3, 10)
FAULTS = (
    "tests/faults",
    "tests/contract/test_lifecycle.py",
    "tests/e2e/test_compiled.py",
    "tests/e2e/test_cpp_agent.py",
    "tests/e2e/test_dataset_formats.py",
    "tests/e2e/test_object_store.py",
    "tests/e2e/test_policies.py",
    "tests/e2e/test_replay_shards.py",
    "tests/e2e/test_training_evaluation.py",
    "tests/e2e/test_truth.py",
    "tests/unit/core/test_actor_graph.py",
    "tests/unit/core/test_torchscript.py",
)


def setup(*, again: bool = False) -> None:
    """Make ``.venv`` with all that is required and this project, unless that is done already.

    Args:
        again: also compile where nothing has changed; there may be a compiler now.
    """
    if sys.version_info < OLDEST:
        raise SystemExit(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")
    wanted = state()
    done = STAMP.read_text().split() if PYTHON.exists() and STAMP.exists() else []
    if done == wanted and not again:
        return
    if done[:1] != wanted[:1]:
        install()
    compile_agent()
    STAMP.write_text(" ".join(wanted))


def compile_agent() -> None:
    """Install this project, and what is compiled of it where there is a compiler; else it is interpreted."""
    for folder in (ROOT, ROOT / "auxilium_rl" / "agent"):
        for compiled in (*folder.glob("*.so"), *folder.glob("*.pyd")):
            compiled.unlink()  # where it cannot be made again, it would be run instead of what is there now
    run([*PIP, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def state() -> list[str]:
    """What ``.venv`` was made of: requirements, and what is compiled."""
    return [digest("requirements.txt"), digest("pyproject.toml", "setup.py", "auxilium_rl/agent/*.py")]


def install() -> None:
    """Make ``.venv`` and install the pinned requirements."""
    if not PYTHON.exists():
        print(f"making {VENV}", flush=True)
        venv.create(VENV, with_pip=True)
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in requirements if line.startswith("torch=="))
    print("installing the requirements; the first time takes some minutes", flush=True)
    run([*PIP, torch])  # before anything that would bring another build of it
    run([*PIP, "-r", str(ROOT / "requirements.txt")])


def digest(*patterns: str) -> str:
    """Of what files of the project say."""
    files = [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def run(command: list[str]) -> None:
    """Run a command in the project's folder; its failure is ours."""
    code = subprocess.call(command, cwd=ROOT)
    if code:
        raise SystemExit(code)


def tool(name: str, *arguments: str) -> None:
    """Run a tool of the virtual environment."""
    run([str(BIN / name), *arguments])


def check() -> None:
    """Style, types, layers."""
    tool("ruff", "check", ".")
    tool("ruff", "format", "--check", ".")
    tool("mypy")
    tool("lint-imports", "--no-cache")


def test() -> None:
    """Everything that CI asks for: ``check``, then every test with branch coverage."""
    with ThreadPoolExecutor(1) as pool:  # one computes, the other one mostly waits
        installing = pool.submit(beside, "triton", ROOT / "tests" / "requirements-triton.txt")
        check()
        installing.result()
    workers = str(min((os.cpu_count() or 1) + 1, 4))  # tests that kill mostly wait
    spread = ("-n", workers, "--dist", "loadfile", "--no-loadscope-reorder")
    python("-m", "pytest", *spread, "--cov", "--cov-report=term", "--cov-report=")


def python(*arguments: str) -> None:
    """Run the virtual environment's Python."""
    run([str(PYTHON), *arguments])


def beside(name: str, requirements: Path) -> None:
    """An environment of its own below ``build`` for programs whose pins or modules are not ours."""
    place = ROOT / "build" / name
    stamp, wanted = place / ".installed", digest(str(requirements.relative_to(ROOT)))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    run([sys.executable, "-m", "venv", str(place)])
    run([str(place / BIN.name / "pip"), "install", "--quiet", "--requirement", str(requirements)])
    stamp.write_text(wanted)


def bench() -> None:
    """The benchmarks, and their peers."""
    beside("peers", ROOT / "bench" / "requirements.txt")
    python("-m", "bench")


def faults() -> None:
    """What is long: kills by the hundred, every case of parity, datasets for TensorFlow (two gigabytes of it)."""
    beside("rlds", ROOT / "tests" / "requirements-rlds.txt")
    python("-m", "pytest", *FAULTS, "--long", "--timeout=3600")


COMMANDS = {
    "setup": lambda: None,
    "demo": lambda: python("examples/cartpole/demo.py"),
    "check": check,
    "test": test,
    "bench": bench,
    "soak": lambda: python("-m", "soak"),
    "proto": lambda: python("scripts/build_stubs.py"),
    "faults": faults,
}


def main() -> None:
    """Do what the command line says."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(f"usage: python scripts/dev.py {'|'.join(COMMANDS)}")
    setup(again=sys.argv[1] == "setup")
    COMMANDS[sys.argv[1]]()


if __name__ == "__main__":
    main()
