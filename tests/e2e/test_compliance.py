"""The compliance suite on our own simulators, and on one that breaks every rule."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from auxilium_rl.simulator import serve_env
from auxilium_rl.testing.simulator_compliance import CHECKS, Check, NotApplicable, Simulator
from tests.e2e.toys import Lookup, MaskedGrid, Reach


@pytest.fixture(scope="module", params=["CartPole", "Lookup", "Reach", "MaskedGrid"])
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    env = {"CartPole": "CartPole-v1", "Lookup": Lookup, "Reach": Reach, "MaskedGrid": MaskedGrid}[request.param]
    with serve_env(env, 3, "127.0.0.1:0") as served:
        found = Simulator(served.address)
        yield found
        found.close()


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_our_own_simulators(check: Check, simulator: Simulator) -> None:
    try:
        check.run(simulator)
    except NotApplicable as reason:
        assert check.name in {"masks", "seeds"}, reason
