from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from auxilium_rl.cli.main import app
from tests.unit.client.double import Double, listening

Auxilium = Callable[..., Result]


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def address(double: Double) -> Iterator[str]:
    with listening(double) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def auxilium(address: str) -> Auxilium:
    """The command, in this process, with the double as its server."""

    def call(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner(env={"AUXILIUM_ADDRESS": address}).invoke(app, list(arguments), input=stdin)

    return call
