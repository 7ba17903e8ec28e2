"""The table that ``make faults`` prints: what is promised, and what was measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_ROWS: list[tuple[str, str, str]] = []


@pytest.fixture
def promise() -> Callable[[str, str, str], None]:
    """Note a row: the promise, its figure, what was measured."""
    return lambda what, figure, measured: _ROWS.append((what, figure, measured))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _ROWS:
        return
    terminalreporter.section("promises")
    width = max(len(what) for what, _, _ in _ROWS)
    for what, figure, measured in _ROWS:
        terminalreporter.write_line(f"{what:<{width}}  {figure:<28}  {measured}")
