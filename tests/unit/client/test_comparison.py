"""The interval of a comparison, against figures from a table of Student's t."""

from __future__ import annotations

import pytest

from auxilium_rl.client.comparison import _student, interval


@pytest.mark.parametrize(("freedom", "quantile"), [(5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)])
def test_quantiles_of_students_t(freedom: int, quantile: float) -> None:
    assert _student(freedom) == pytest.approx(quantile, abs=5e-3)


def test_interval() -> None:
    difference, low, high = interval([10.0, 12.0, 11.0, 13.0], [1.0, 2.0, 3.0, 2.0])
    assert difference == 9.5
    assert 7.4 < low < 8.0 < 11.0 < high < 11.6
    assert interval([5.0, 5.0], [5.0, 5.0]) == (0.0, 0.0, 0.0)
