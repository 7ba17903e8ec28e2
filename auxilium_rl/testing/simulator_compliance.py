"""Does a simulator keep ``simulation.v2``? A list of checks, for a test suite or for a person.

For pytest, in any language's repository::

    from auxilium_rl.testing.simulator_compliance import CHECKS, Simulator

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_my_simulator(check):
        check.run(Simulator("127.0.0.1:50062"))      # raises Noncompliant, which says what to do

For a person: ``auxilium env check ADDRESS``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from auxilium_rl.infra.session.links import LinkLost, LinkRefused
from auxilium_rl.testing.raw_session import RawSession, Simulator
from auxilium_rl.wire.contract import SAME_STEP
from auxilium_rl.wire.spaces import Codec, InvalidSlab, counted_from_zero
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["CHECKS", "Check", "Noncompliant", "NotApplicable", "Simulator"]

_STEPS = 5
_LONGEST = 2000


class Noncompliant(AssertionError):
    """The simulator does not keep the protocol; says what came, what was expected, and what to do."""


class NotApplicable(Exception):
    """This simulator has nothing that this check is about; says what."""


@dataclass(frozen=True)
class Check:
    """One rule of the protocol."""

    name: str
    rule: str
    run: Callable[[Simulator], None]

    def __str__(self) -> str:
        return self.name


CHECKS: list[Check] = []
"""Every check; each opens a session of its own and closes it."""


def _check(rule: str) -> Callable[[Callable[[Simulator], None]], Callable[[Simulator], None]]:
    def register(function: Callable[[Simulator], None]) -> Callable[[Simulator], None]:
        CHECKS.append(Check(function.__name__, rule, function))
        return function

    return register


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise Noncompliant(message)


def _is_error(answer: pb.FromEnv, code: pb.ErrorCode.ValueType, what: str) -> None:
    kind = answer.WhichOneof("kind")
    _require(kind == "error", f"{what} was answered with {kind}; an EnvError is expected")
    given, wanted = (pb.ErrorCode.Name(c).removeprefix("ERROR_CODE_") for c in (answer.error.code, code))
    _require(answer.error.code == code, f"{what} was answered with {given}; {wanted} is expected")
    _require(bool(answer.error.message), f"{what} was answered with {wanted} but no message; say what was wrong")


def _begun(session: RawSession, seed: int = 1) -> pb.FromEnv:
    lanes = session.agreed().lanes
    answer = session.ask(reset=pb.Reset(seeds=[seed + lane for lane in range(lanes)]))
    _require(
        answer.WhichOneof("kind") == "transition",
        f"Reset was answered with {answer.WhichOneof('kind')} {answer.error.message}; a transition is expected",
    )
    return answer


def _stepped(session: RawSession, random: np.random.Generator, before: pb.FromEnv) -> pb.FromEnv:
    answer = session.ask(step=session.actions(random, before.transition.action_mask))
    _require(
        answer.WhichOneof("kind") == "transition",
        f"Step was answered with {answer.WhichOneof('kind')} {answer.error.message}; a transition is expected",
    )
    return answer


def _played(session: RawSession, steps: int, seed: int = 1) -> list[pb.FromEnv]:
    random, answers = np.random.default_rng(seed), [_begun(session, seed)]
    for _ in range(steps):
        answers.append(_stepped(session, random, answers[-1]))
    return answers


@_check("a contract answers the hello, and describes spaces that can be trained on")
def contract(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        _require(session.kind == "contract", f"hello was answered with {session.kind}; a contract is expected")
        for name in ("session_id", "resume_token"):
            _require(bool(getattr(session.message, name)), f"the contract has no {name}; give it one, it resumes by it")
        _require(session.message.lease_ms > 0, "lease_ms is 0; say how long a session outlives its connection")


@_check("another generation is refused, and both are named")
def generation(simulator: Simulator) -> None:
    """See the rule."""
    try:
        with simulator.session(generation="sim-v0"):
            pass
    except LinkRefused as refused:
        _require("sim-v0" in str(refused) and "sim-v2" in str(refused), f"it said '{refused}'; name both generations")
        return
    except LinkLost as lost:
        raise Noncompliant(f"it ended with '{lost}'; FAILED_PRECONDITION is expected") from lost
    raise Noncompliant("generation 'sim-v0' was accepted; refuse it with FAILED_PRECONDITION")


@_check("every slab of Reset and Step has the length that the contract says, and its values are of the space")
def slabs(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        agreed = session.agreed()
        codec, lanes = Codec(counted_from_zero(agreed.observation)), range(agreed.lanes)
        for answer in _played(session, _STEPS):
            step = answer.transition
            try:
                fault = codec.fault(codec.decode(step.obs, agreed.lanes), lanes)
            except InvalidSlab as wrong:
                raise Noncompliant(str(wrong)) from wrong
            _require(not fault, fault)
            for name, size in (("reward", 4), ("terminated", 1), ("truncated", 1)):
                given = len(getattr(step, name))
                _require(given == size * agreed.lanes, f"{name}: {given} bytes; {size * agreed.lanes} are expected")
            _require(
                bool(np.isfinite(np.frombuffer(step.reward, "<f4")).all()), "a reward is NaN or infinite; send numbers"
            )


@_check("a step before a reset is NOT_READY")
def not_ready(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        step = session.actions(np.random.default_rng(0))
        _is_error(session.ask(step=step), pb.ERROR_CODE_NOT_READY, "a Step before any Reset")


@_check("a request that comes again is answered as before, and not carried out again")
def replay(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        once = _played(session, _STEPS)[-1]
        repeated = pb.Step(action=session.actions(np.random.default_rng(3)).action)
        again = session.ask(session.seq, step=repeated)
        _require(
            again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True),
            f"seq {session.seq} came twice and was answered differently; keep the last answer and send it again",
        )
        following = session.ask(step=session.actions(np.random.default_rng(4), once.transition.action_mask))
        _require(following.WhichOneof("kind") == "transition", "after a repeated seq the next one was not carried out")


@_check("numbers that are neither the last nor the next are INVALID_REQUEST, and change nothing")
def order(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        last = _played(session, 2)[-1]
        for seq in (1, session.seq + 5):
            wrong = session.ask(seq, step=session.actions(np.random.default_rng(0), last.transition.action_mask))
            _is_error(wrong, pb.ERROR_CODE_INVALID_REQUEST, f"seq {seq} after {session.seq}")
        _stepped(session, np.random.default_rng(1), last)


@_check("a wrong request names what is wrong, and changes nothing")
def wrong_requests(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        lanes, last = session.agreed().lanes, _begun(session)
        short = session.actions(np.random.default_rng(0))
        short.action[0] = short.action[0][:-1]
        _is_error(session.ask(step=short), pb.ERROR_CODE_INVALID_REQUEST, "an action slab that is a byte short")
        beyond = pb.Reset(lanes=[lanes])
        _is_error(session.ask(reset=beyond), pb.ERROR_CODE_INVALID_REQUEST, f"lane {lanes} of {lanes}")
        too_many = pb.Reset(seeds=[1] * (lanes + 1))
        _is_error(session.ask(reset=too_many), pb.ERROR_CODE_INVALID_REQUEST, f"{lanes + 1} seeds for {lanes} lanes")
        outside = session.actions(np.random.default_rng(0))
        size = len(outside.action[0])  # NaN as a float, far too great as an integer, neither 0 nor 1 as a byte
        outside.action[0] = (b"\xff\xff\xff\x7f" * (size // 4 + 1))[:size]
        _is_error(session.ask(step=outside), pb.ERROR_CODE_INVALID_ACTION, "an action outside its space")
        _stepped(session, np.random.default_rng(1), last)


@_check("a ping is answered and not counted")
def ping(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        last = _begun(session)
        kind = session.ask(0, ping=pb.Ping()).WhichOneof("kind")
        _require(kind == "pong", f"Ping was answered with {kind}; a pong is expected")
        _stepped(session, np.random.default_rng(0), last)


@_check("one session at a time holds the lanes")
def second_session(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        last = _begun(session)
        try:
            with simulator.session():
                pass
        except (LinkRefused, LinkLost):
            _stepped(session, np.random.default_rng(0), last)
            return
        raise Noncompliant("a second session was opened while one was connected; refuse it with RESOURCE_EXHAUSTED")


@_check("who comes back with its token goes on with the same episode")
def resume(simulator: Simulator) -> None:
    """See the rule."""
    session = simulator.session()
    if "resume" not in session.message.capabilities:
        session.end()
        raise NotApplicable("the contract does not have the capability resume")
    last = _played(session, _STEPS)[-1]
    session.cut()
    token = {"session_id": session.message.session_id, "resume_token": session.message.resume_token}
    wrong = {**token, "resume_token": b"guess"}
    try:
        with simulator.session(**wrong):
            raise Noncompliant("a wrong resume_token was accepted")
    except (LinkRefused, LinkLost):
        pass
    keep = "keep it for lease_ms after its connection was lost"
    try:
        returned = simulator.session(**token)
    except (LinkRefused, LinkLost) as refused:
        raise Noncompliant(f"the session was not resumed; {keep}: {refused}") from refused
    with returned as back:
        back.seq = session.seq
        _require(back.message.resumed, f"the session was not resumed; {keep}")
        _require(back.message.last_seq == session.seq, f"last_seq: {back.message.last_seq}; {session.seq} is expected")
        again = back.ask(session.seq, step=back.actions(np.random.default_rng(9)))
        _require(again.transition.obs[:] == last.transition.obs[:], "after resuming, the last answer was another")
        _stepped(back, np.random.default_rng(1), again)


@_check("the same seeds and actions give the same transitions, and zero is a seed")
def seeds(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        if not session.agreed().deterministic:
            raise NotApplicable("the contract does not say that it is deterministic")
        for seed in (0, 7):
            first, second = (
                [(a.transition.obs[:], a.transition.reward) for a in _played(session, 20, seed)] for _ in range(2)
            )
            step = next((n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), -1)
            _require(step < 0, f"with seed {seed} the transitions differ from step {step} on; seed every random stream")


@_check("an episode that ends says how, and with SAME_STEP shows its last observation")
def episode_ends(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        agreed, random = session.agreed(), np.random.default_rng(5)
        answer = _begun(session, 5)
        for _ in range(_LONGEST):
            answer = _stepped(session, random, answer)
            step = answer.transition
            ended = np.frombuffer(step.terminated, "u1") | np.frombuffer(step.truncated, "u1")
            if ended.any():
                break
        else:
            raise NotApplicable(f"no episode ended within {_LONGEST} steps")
        if agreed.autoreset != SAME_STEP:
            return
        codec = Codec(counted_from_zero(agreed.observation))
        try:
            codec.decode(step.final_obs, int(ended.sum()))
        except InvalidSlab as wrong:
            raise Noncompliant(f"final_obs: {wrong}; send the rows of the lanes that ended, in their order") from wrong


@_check("a snapshot brings every lane back to where it was, its random stream too")
def snapshots(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        if "snapshot" not in session.message.capabilities:
            raise NotApplicable("the contract does not have the capability snapshot")
        at = _played(session, _STEPS)[-1]
        taken = session.ask(snapshot=pb.Snapshot())
        lanes = session.agreed().lanes
        count = len(taken.states.states)
        _require(
            count == lanes, f"snapshot was answered with {count} states; one for each of {lanes} lanes is expected"
        )
        first = _from_here(session, at, 30)
        back = session.ask(restore=pb.Restore(states=taken.states.states))
        _require(back.WhichOneof("kind") == "transition", f"restore was answered with {back.WhichOneof('kind')}")
        _require(back.transition.obs[:] == at.transition.obs[:], "restored lanes show other observations than they did")
        second = _from_here(session, back, 30)
        step = next((n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), -1)
        _require(step < 0, f"after restore the transitions differ from step {step} on; a state lacks something")
        garbage = pb.Restore(states=[b"garbage"] * lanes)
        _is_error(session.ask(restore=garbage), pb.ERROR_CODE_INVALID_REQUEST, "a restore of garbage")


def _from_here(session: RawSession, last: pb.FromEnv, steps: int) -> list[tuple[list[bytes], bytes]]:
    random, seen = np.random.default_rng(5), []
    for _ in range(steps):
        last = _stepped(session, random, last)
        seen.append((list(last.transition.obs), last.transition.reward))
    return seen


@_check("masks cover every lane and leave an action")
def masks(simulator: Simulator) -> None:
    """See the rule."""
    with simulator.session() as session:
        agreed = session.agreed()
        if not agreed.mask_len:
            raise NotApplicable("the contract has no mask")
        for answer in _played(session, 20):
            given, expected = len(answer.transition.action_mask), agreed.lanes * agreed.mask_len
            _require(given == expected, f"action_mask: {given} bytes; {expected} are expected")
            rows = np.frombuffer(answer.transition.action_mask, "u1").reshape(agreed.lanes, -1)
            _require(bool((rows <= 1).all()), "action_mask holds other values than 0 and 1")
            _require(bool(rows.any(axis=1).all()), "a mask forbids every action")


@_check("after Close every request is CLOSED, and a new session may begin")
def close(simulator: Simulator) -> None:
    """See the rule."""
    session = simulator.session()
    kind = session.ask(close=pb.Close(reason="done")).WhichOneof("kind")
    _require(kind == "closed", f"Close was answered with {kind}; closed is expected")
    with contextlib.suppress(LinkLost):  # ending the stream says it as well
        _is_error(session.ask(reset=pb.Reset()), pb.ERROR_CODE_CLOSED, "a Reset after Close")
    session.cut()
    with simulator.session() as another:
        _begun(another)
