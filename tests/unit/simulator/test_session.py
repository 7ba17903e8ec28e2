"""The simulator's half of ``simulation.v2`` on its own: every request right and wrong, and what is done once."""

from __future__ import annotations

from typing import Any

import grpc
import gymnasium
import numpy as np
import pytest

from auxilium_rl.simulator.describing import contract_of
from auxilium_rl.simulator.session import SessionHost, SessionRefused, hello_in
from auxilium_rl.wire.gym_lanes import GymLanes
from generated.simulation.v2 import simulation_pb2 as pb


class Counting(gymnasium.Env[Any, Any]):
    """Counts its steps, ends after four, and takes only actions that its mask allows."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=-1)
    fail = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = (options or {}).get("from", 0)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.fail:
            raise RuntimeError("a gear broke")
        self.count += 1
        return self._seen(), float(action), self.count == 4, False, {"speed": 1.5, "colour": "red"}

    def _seen(self) -> Any:
        return np.array([self.count, self.np_random.random()], np.float32)

    def action_masks(self) -> list[bool]:
        return [True, self.count % 2 == 0, True]


HELLO = pb.Hello(generation="sim-v2")


@pytest.fixture
def host() -> SessionHost:
    return SessionHost(lambda: GymLanes(Counting, 2), contract_of(Counting, 2)[0], lease=60.0)


class Trainer:
    """Asks a session as a trainer does, counting for itself."""

    def __init__(self, host: SessionHost) -> None:
        self.connection = object()
        self.session, welcome = host.open(HELLO, self.connection)
        self.contract = pb.FromEnv.FromString(welcome).contract
        self.seq = 0

    def ask(self, seq: int | None = None, **kind: Any) -> pb.FromEnv:
        if seq is None:
            self.seq += 1
        request = pb.ToEnv(seq=self.seq if seq is None else seq, **kind)
        return pb.FromEnv.FromString(self.session.handle(request.SerializeToString(), self.connection))


def step(*actions: int, lanes: tuple[int, ...] = ()) -> pb.Step:
    return pb.Step(action=[np.array(actions, "<i8").tobytes()], lanes=lanes)


def observations(answer: pb.FromEnv, count: int = 2) -> Any:
    return np.frombuffer(answer.transition.obs[0], "<f4").reshape(count, 2)


def test_steps_resets_masks_and_infos(host: SessionHost) -> None:
    trainer = Trainer(host)
    first = trainer.ask(reset=pb.Reset(seeds=[0, 0]))
    assert first.seq == 1
    assert first.transition.action_mask == bytes([1, 1, 1, 1, 1, 1])
    assert observations(first)[0].tolist() == observations(first)[1].tolist()  # zero is a seed
    answer = trainer.ask(step=step(2, 0))
    assert observations(answer)[:, 0].tolist() == [1, 1]
    assert np.frombuffer(answer.transition.reward, "<f4").tolist() == [1.0, -1.0]  # start was added
    assert answer.transition.action_mask == bytes([1, 0, 1, 1, 0, 1])
    info = answer.transition.infos[1]
    assert (info.lane, dict(info.scalars), dict(info.text)) == (1, {"speed": 1.5}, {"colour": "red"})
    assert answer.env_ns > 0


def test_an_episode_that_ends_is_followed_by_the_next_in_the_same_step(host: SessionHost) -> None:
    trainer = Trainer(host)
    trainer.ask(reset=pb.Reset(options_json=b'{"from": 2}', lanes=[1]))
    trainer.ask(reset=pb.Reset(lanes=[0]))
    trainer.ask(step=step(1, 1))
    answer = trainer.ask(step=step(1, 1))
    assert answer.transition.terminated == bytes([0, 1])
    assert observations(answer)[:, 0].tolist() == [2, 0]
    assert np.frombuffer(answer.transition.final_obs[0], "<f4")[0] == 4


@pytest.mark.parametrize("sticky", [True, False])
def test_options_stay_when_they_are_sticky(sticky: bool, host: SessionHost) -> None:
    trainer = Trainer(host)
    trainer.ask(reset=pb.Reset(options_json=b'{"from": 3}', sticky_options=sticky))
    assert observations(trainer.ask(step=step(1, 1)))[0, 0] == (3 if sticky else 0)


def test_the_same_request_again_is_answered_and_not_carried_out(host: SessionHost) -> None:
    trainer = Trainer(host)
    trainer.ask(reset=pb.Reset())
    once = trainer.ask(step=step(1, 1))
    again = trainer.ask(2, step=step(1, 1))
    assert once.SerializeToString() == again.SerializeToString()
    assert trainer.session.steps == 2


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ({"step": pb.Step(action=[bytes(15)])}, pb.ERROR_CODE_INVALID_REQUEST, "15 bytes came; 16 were expected"),
        ({"step": pb.Step()}, pb.ERROR_CODE_INVALID_REQUEST, "0 slabs came; 1 leaves"),
        ({"step": step(3, 0)}, pb.ERROR_CODE_INVALID_ACTION, "action of lane 0: 3 given; 0 to 2 are accepted"),
        ({"step": step(1, lanes=(2,))}, pb.ERROR_CODE_INVALID_REQUEST, "lanes: 2 given; 0 to 1 are accepted"),
        ({"step": step(1, 1, lanes=(1, 1))}, pb.ERROR_CODE_INVALID_REQUEST, "each may come once"),
        ({"reset": pb.Reset(seeds=[1])}, pb.ERROR_CODE_INVALID_REQUEST, "seeds: 1 given; none or 2"),
        ({"reset": pb.Reset(options_json=b"[")}, pb.ERROR_CODE_INVALID_REQUEST, "options_json"),
        ({"reset": pb.Reset(options_json=b"[]")}, pb.ERROR_CODE_INVALID_REQUEST, "a JSON object is"),
        ({"snapshot": pb.Snapshot()}, pb.ERROR_CODE_UNSUPPORTED, "the state of this environment cannot be taken"),
        ({}, pb.ERROR_CODE_UNSUPPORTED, "nothing given"),
        ({"step": pb.Step(want=[0])}, pb.ERROR_CODE_UNSUPPORTED, "want"),
    ],
)
def test_wrong_requests_change_nothing(kind: dict[str, Any], code: int, says: str, host: SessionHost) -> None:
    trainer = Trainer(host)
    trainer.ask(reset=pb.Reset())
    answer = trainer.ask(**kind)
    assert answer.error.code == code
    assert says in answer.error.message
    assert answer.error.recoverable
    assert observations(trainer.ask(step=step(1, 1)))[0, 0] == 1


def test_a_step_before_a_reset(host: SessionHost) -> None:
    answer = Trainer(host).ask(step=step(1, 1))
    assert answer.error.code == pb.ERROR_CODE_NOT_READY


@pytest.mark.parametrize("seq", [1, 5])
def test_numbers_out_of_order(seq: int, host: SessionHost) -> None:
    trainer = Trainer(host)
    for _ in range(3):
        trainer.ask(reset=pb.Reset())
    answer = trainer.ask(seq, reset=pb.Reset())
    assert answer.error.code == pb.ERROR_CODE_INVALID_REQUEST
    assert f"seq: {seq} given; 4 is expected, or 3 again" in answer.error.message


def test_an_environment_that_raises(host: SessionHost) -> None:
    trainer = Trainer(host)
    trainer.ask(reset=pb.Reset())
    Counting.fail = True
    try:
        answer = trainer.ask(step=step(1, 1))
    finally:
        Counting.fail = False
    assert answer.error.code == pb.ERROR_CODE_CRASHED
    assert answer.error.message == "the environment raised RuntimeError: a gear broke"
    assert not answer.error.recoverable
    assert "Traceback" in answer.error.debug


def test_close_and_after(host: SessionHost) -> None:
    trainer = Trainer(host)
    assert trainer.ask(close=pb.Close(reason="enough")).closed.message == "enough"
    assert trainer.ask(step=step(1, 1)).error.code == pb.ERROR_CODE_CLOSED
    assert Trainer(host).ask(reset=pb.Reset()).WhichOneof("kind") == "transition"


def test_ping_is_not_counted(host: SessionHost) -> None:
    trainer = Trainer(host)
    assert trainer.ask(0, ping=pb.Ping()).WhichOneof("kind") == "pong"
    assert trainer.session.last_seq == 0
    answer = trainer.ask(0, reset=pb.Reset())
    assert answer.error.code == pb.ERROR_CODE_INVALID_REQUEST
    assert answer.error.message == "seq: 0 given with reset; reset is counted from 1"
    assert "a second hello" in trainer.ask(0, hello=HELLO).error.message


def test_garbage_is_refused(host: SessionHost) -> None:
    trainer = Trainer(host)
    with pytest.raises(SessionRefused, match=r"not a simulation\.v2\.ToEnv"):
        trainer.session.handle(b"\xff\xff garbage", trainer.connection)
    with pytest.raises(SessionRefused, match=r"not a simulation\.v2\.ToEnv"):
        hello_in(b"\xff\xff garbage")
    with pytest.raises(SessionRefused, match="step with seq 4 came first"):
        hello_in(pb.ToEnv(seq=4, step=pb.Step()).SerializeToString())


# -- who may have the session


def returning(trainer: Trainer, **changes: Any) -> pb.Hello:
    given = {"session_id": trainer.contract.session_id, "resume_token": trainer.contract.resume_token, **changes}
    return pb.Hello(generation="sim-v2", **given)


def test_who_comes_back_goes_on(host: SessionHost) -> None:
    trainer = Trainer(host)
    trainer.ask(reset=pb.Reset())
    trainer.ask(step=step(1, 1))
    before = trainer.connection
    trainer.connection = object()
    session, welcome = host.open(returning(trainer), trainer.connection)
    contract = pb.FromEnv.FromString(welcome).contract
    assert session is trainer.session
    assert (contract.resumed, contract.last_seq) == (True, 2)
    assert observations(trainer.ask(step=step(1, 1)))[0, 0] == 2
    with pytest.raises(SessionRefused, match="another connection has taken this session over"):
        session.handle(pb.ToEnv(seq=4, reset=pb.Reset()).SerializeToString(), before)


def test_a_second_trainer_is_refused_until_the_lease_is_over(host: SessionHost) -> None:
    trainer = Trainer(host)
    with pytest.raises(SessionRefused, match="it is connected") as caught:
        Trainer(host)
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    trainer.session.leave(trainer.connection)
    with pytest.raises(SessionRefused, match="its connection was lost"):
        Trainer(host)
    host.lease = 0.0
    assert Trainer(host).session is not trainer.session
    assert trainer.session.closed


def test_wrong_tokens_and_generations(host: SessionHost) -> None:
    trainer = Trainer(host)
    with pytest.raises(SessionRefused, match="wrong resume_token"):
        host.open(returning(trainer, resume_token=b"guess"), object())
    with pytest.raises(SessionRefused, match="'sim-v9' was asked for; this simulator speaks 'sim-v2'"):
        host.describe(pb.Hello(generation="sim-v9"))
    with pytest.raises(SessionRefused, match="wrong data_plane_token"):
        host.open_fast_lane(pb.Hello(generation="sim-v2", data_plane_token=b"guess"), object())
    right = host.data_plane_token
    with pytest.raises(SessionRefused, match="no session 'other'"):
        host.open_fast_lane(pb.Hello(generation="sim-v2", data_plane_token=right, session_id="other"), object())


def test_describe_has_no_side_effect_and_gives_what_both_can(host: SessionHost) -> None:
    contract = host.describe(pb.Hello(generation="sim-v2", capabilities=["mask", "png"]))
    assert list(contract.capabilities) == ["mask"]
    assert (contract.lanes, contract.mask_len, contract.session_id) == (2, 3, "")
    Trainer(host)
