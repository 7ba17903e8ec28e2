from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share; without gym ids it trains on CartPole in process."""
    data: Path = tmp_path_factory.mktemp("server") / "data"
    with running(data, default_env="gym:CartPole-v1", max_concurrent_runs=2) as server:
        yield server
