from __future__ import annotations

from collections.abc import Iterator

import pytest

from auxilium_rl.client import Client
from tests.unit.client.double import Double, listening


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def port(double: Double) -> Iterator[int]:
    with listening(double) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with Client(f"127.0.0.1:{port}", timeout=5.0, connect_timeout=2.0) as client:
        yield client
