"""Interleaved pairs, medians, and the table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["PAIRS", "Figure", "interleaved", "percentile", "report"]

PAIRS = 7
"""Pairs of every ratio."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured figure and its bar. ``values`` are those of the pairs; the median counts."""

    name: str
    values: list[float]
    bar: float
    at_least: bool
    unit: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def interleaved(ours: Callable[[], float], peer: Callable[[], float], pairs: int = PAIRS) -> list[float]:
    """Ratios ours ÷ peer, one for each pair, taken in turn so that a drift of the machine touches both."""
    ratios = []
    for number in range(pairs):
        if number % 2:
            below = peer()
            above = ours()
        else:
            above = ours()
            below = peer()
        ratios.append(above / below)
    return ratios


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def report(figures: list[Figure]) -> bool:
    """Print and write the table; whether every bar was met."""
    lines = [f"{'figure':<74} {'median':>9} {'min':>9} {'max':>9} {'bar':>8}"]
    for f in figures:
        sign = "≥" if f.at_least else "≤"
        numbers = f"{f.value:>9.3f} {min(f.values):>9.3f} {max(f.values):>9.3f} {sign}{f.bar:>7g}"
        lines.append(f"{f.name:<74} {numbers} {f.unit} {'ok' if f.met else 'MISSED'}")
    text = "\n".join(lines)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.txt").write_text(text + "\n")
    (RESULTS / "bench.json").write_text(json.dumps([asdict(f) for f in figures], indent=1))
    return all(f.met for f in figures)
