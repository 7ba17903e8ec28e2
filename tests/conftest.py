"""What tests of every ring share."""

from __future__ import annotations

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what it runs in the background so, and children inherit it; some of them are sent SIGINT here.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="kill by the hundred instead of a few times")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often a test that kills does so."""
    return 100 if request.config.getoption("--long") else 5
