"""What tests of every ring share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

_TRACING = "COVERAGE_PROCESS_CONFIG"
_UNTRACED = {
    "test_act_parity.py",
    "test_agent_examples.py",
    "test_agent_replay.py",
    "test_algorithms.py",
    "test_compliance.py",
    "test_cpp_agent.py",
    "test_dataset_formats.py",
    "test_datasets.py",
    "test_dotnet_sequence.py",
    "test_open_inference.py",
    "test_other_languages.py",
    "test_remote_env.py",
    "test_repository.py",
    "test_rl4sys.py",
    "test_training_evaluation.py",
    "test_truth.py",
}
"""Whose processes run what those of other tests run, and ``tests/faults``, whose processes are killed."""


class _Interpreted(PathFinder):
    """What is compiled is interpreted in tests, whose lines are counted; ``test_compiled`` tests it as it is."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = super().find_spec(fullname, path, target) if fullname.startswith("auxilium_rl.") else None
        if found is None or found.origin is None or not found.origin.endswith(tuple(EXTENSION_SUFFIXES)):
            return None
        return spec_from_file_location(fullname, Path(found.origin).parent / f"{fullname.rpartition('.')[2]}.py")


if "AUXILIUM_TEST_COMPILED" not in os.environ:
    sys.meta_path.insert(0, _Interpreted)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes are started here, which need not compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what it runs in the background so, and children inherit it; some of them are sent SIGINT here.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also what is marked long, and kill by the hundred")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--long``, tests marked ``long`` are left to ``make faults``."""
    _put_in_order(items)
    if config.getoption("--long"):
        return
    left = [item for item in items if item.get_closest_marker("long")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _put_in_order(items: list[pytest.Item]) -> None:
    """Tests of faults wait a lot: they go between those that compute, so that no processor is idle."""
    files = {folder: sorted({one.path for one in items if folder in one.path.parts}) for folder in ("faults", "e2e")}
    place = {path: (number + 0.5) / len(paths) for paths in files.values() for number, path in enumerate(paths)}
    items.sort(key=lambda one: place.get(one.path, 2.0))


@pytest.fixture(autouse=True, scope="module")
def _processes_that_are_not_traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """To measure coverage takes a process half as long again; where it shows nothing new it is left out."""
    untraced = request.path.name in _UNTRACED or request.path.parent.name == "faults"
    told = os.environ.pop(_TRACING, None) if untraced else None
    yield
    if told is not None:
        os.environ[_TRACING] = told


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often a test that kills does so."""
    return 100 if request.config.getoption("--long") else 5


_ROWS: list[tuple[str, str, str]] = []


@pytest.fixture(scope="session")
def promise() -> Callable[[str, str, str], None]:
    """Note a row of the table that ``make faults`` prints: the promise, its figure, what was measured."""
    return lambda what, figure, measured: _ROWS.append((what, figure, measured))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ROWS:
        return
    terminalreporter.section("promises")
    width = max(len(what) for what, _, _ in _ROWS)
    for what, figure, measured in _ROWS:
        terminalreporter.write_line(f"{what:<{width}}  {figure:<28}  {measured}")
