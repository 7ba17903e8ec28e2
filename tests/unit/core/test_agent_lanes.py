"""How a learner waits for what agents push."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from gymnasium import spaces

from auxilium_rl.core.control import Control
from auxilium_rl.core.dto import EnvironmentSource, ExperiencePlan, Run, RunSpec
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.states import RunState
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.wire.agreement import contract_of


class Clock(Control):
    """Time goes on when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.pauses = 100.0, list[tuple[float, float]]()

    def pause(self, seconds: float) -> None:
        self.pauses.append((self.now, seconds))
        self.now += seconds


class Enough(Exception):
    """It was waited long enough."""


class Patient:
    """Notes what a run waits for; ends after a minute."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.reasons = clock, list[str]()

    def waiting(self, reason: str) -> object:
        self.reasons.append(reason)
        return lambda: None

    def resumed(self) -> None:
        raise Enough

    def pause(self, seconds: float) -> None:
        raise AssertionError(seconds)


def test_what_was_waited_for_long_is_looked_for_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("auxilium_rl.core.experience.lanes.time", SimpleNamespace(monotonic=lambda: clock.now))
    contract = contract_of(spaces.Box(0, 1, (2,)), spaces.Discrete(2), 0)
    spec = RunSpec("x", "ppo", EnvironmentSource("agents", contract=contract), 64, 0, experience=ExperiencePlan())
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    patience = Patient(clock)
    reader = SegmentReader(tmp_path)
    lanes = AgentLanes(Run("r", spec, RunState.RUNNING, now, now), reader, clock, patience)  # type: ignore[arg-type]
    while clock.now < 160:
        lanes._wait(0.002, 3, 64)
    began = clock.pauses[0][0]
    assert all(seconds <= max(0.002, 0.02 * (at - began) + 1e-9) for at, seconds in clock.pauses)
    assert clock.pauses[0][1] == 0.002
    assert clock.pauses[-1][1] == max(seconds for _, seconds in clock.pauses) == 0.05
    assert len(clock.pauses) < 2000, "a learner that waits leaves the processor to others"
    assert patience.reasons == ["agents: 3 of 64 steps came"]
    with pytest.raises(Enough):
        lanes.came()
    lanes._wait(0.002, 0, 64)
    assert clock.pauses[-1][1] == 0.002
