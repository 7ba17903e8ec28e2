"""A live picture of a run on the terminal; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from auxilium_rl.client.values import RunEvent, RunStatus

__all__ = ["show"]

_REWARD = "rollout/ep_rew_mean"
_LINE_EVERY = 2.0


def show(events: Iterator[RunEvent], console: Console | None = None) -> Iterator[RunEvent]:
    """Pass events on and draw them: timesteps, steps/s and mean episode reward."""
    console = console or Console()
    if console.is_terminal:
        yield from _bar(events, console)
    else:
        yield from _lines(events, console)


def _bar(events: Iterator[RunEvent], console: Console) -> Iterator[RunEvent]:
    columns = (
        TextColumn("{task.fields[state]:<11}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:>9,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[rate]:>7,.0f} steps/s"),
        TextColumn("reward {task.fields[reward]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("run", total=1, state="", rate=0.0, reward="–")
        told = ""
        for event in events:
            if event.status is not None:
                status = event.status
                progress.update(
                    task,
                    total=status.total_timesteps,
                    completed=min(status.timesteps_done, status.total_timesteps),
                    state=status.state,
                    rate=status.steps_per_second,
                )
                if status.state_reason not in ("", told):
                    progress.console.print(f"{status.state}: {status.state_reason}", highlight=False, markup=False)
                told = status.state_reason
            for metric in event.metrics:
                if metric.key == _REWARD:
                    progress.update(task, reward=f"{metric.value:.1f}")
            yield event


def _lines(events: Iterator[RunEvent], console: Console) -> Iterator[RunEvent]:
    reward, told_at, told_state = "–", 0.0, ""
    for event in events:
        for metric in event.metrics:
            if metric.key == _REWARD:
                reward = f"{metric.value:.1f}"
        status = event.status
        if status is not None and (status.state != told_state or time.monotonic() - told_at >= _LINE_EVERY):
            told_at, told_state = time.monotonic(), status.state
            console.print(_line(status, reward), highlight=False, markup=False, soft_wrap=True)
        yield event


def _line(status: RunStatus, reward: str) -> str:
    line = f"{status.state:<11} {status.timesteps_done:>9,}/{status.total_timesteps:,} timesteps"
    line = f"{line}  {status.steps_per_second:>6,.0f} steps/s  reward {reward}"
    return f"{line}  ({status.state_reason})" if status.state_reason else line
