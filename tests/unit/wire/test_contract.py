from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gymnasium import spaces

from auxilium_rl.wire.contract import DISABLED, NEXT_STEP, SAME_STEP, Contract, ContractRefused
from generated.simulation.v2 import simulation_pb2 as pb

CONTRACT = Contract("Toy-v0", spaces.Box(-1, 1, (3,)), spaces.Discrete(4), 2, mask_len=4, capabilities=("mask",))


def test_a_contract_comes_back_equal() -> None:
    assert Contract.from_message(CONTRACT.to_message()) == CONTRACT


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_modes_that_every_simulator_may_have(mode: str) -> None:
    contract = replace(CONTRACT, autoreset=mode)
    assert Contract.from_message(contract.to_message()).autoreset == mode


def test_next_step_needs_lanes_that_step_alone() -> None:
    contract = replace(CONTRACT, autoreset=NEXT_STEP)
    with pytest.raises(ContractRefused, match="NEXT_STEP given without the capability partial_reset"):
        Contract.from_message(contract.to_message())
    able = replace(contract, capabilities=("partial_reset",))
    assert Contract.from_message(able.to_message()) == able


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"generation": "sim-v3"}, "'sim-v3'; this trainer speaks 'sim-v2'"),
        ({"autoreset": 17}, "autoreset: 17 given; SAME_STEP, NEXT_STEP, DISABLED"),
        ({"autoreset": 0}, "autoreset: 0 given"),
        ({"lanes": 0}, "lanes: 0 given; 1 to 4096"),
        ({"lanes": 5000}, "lanes: 5000 given"),
        ({"mask_len": 3}, "mask_len: 3 given; 4 or 0 are accepted"),
        ({"observation": pb.Space()}, "observation: no kind of space"),
        (
            {"action": pb.Space(dict=pb.Dict(keys=["a"], spaces=[pb.Space(discrete=pb.Discrete(n=2))]))},
            "action: a Dict was given",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], says: str) -> None:
    message = CONTRACT.to_message()
    for name in changes:
        message.ClearField(name)
    message.MergeFrom(pb.Contract(**changes))
    with pytest.raises(ContractRefused, match=says):
        Contract.from_message(message)


def test_no_mask_for_a_box() -> None:
    with pytest.raises(ContractRefused, match="takes no mask"):
        Contract.from_message(replace(CONTRACT, action=spaces.Box(-1, 1, (2,))).to_message())


def test_the_digest_is_of_what_must_not_change() -> None:
    assert replace(CONTRACT, component="other", version="9").digest() == CONTRACT.digest()
    for change in ({"lanes": 3}, {"mask_len": 0}, {"autoreset": DISABLED}, {"action": spaces.Discrete(4, start=1)}):
        assert replace(CONTRACT, **change).digest() != CONTRACT.digest()
