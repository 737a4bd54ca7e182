from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.errors import UsageError
from vmctl.retention import Retention, keep

_NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday


def every(step: timedelta, count: int) -> list[tuple[str, datetime]]:
    return [(f"n{number:03}", _NOON - number * step) for number in range(count)]


def test_the_last_ones_are_kept() -> None:
    assert keep(every(timedelta(minutes=1), 5), Retention(last=2)) == {
        "n000": ("last",),
        "n001": ("last",),
    }


def test_of_each_period_the_newest_is_kept() -> None:
    times = every(timedelta(hours=6), 40)
    assert list(keep(times, Retention(daily=3))) == ["n000", "n003", "n007"]
    assert list(keep(times, Retention(weekly=2))) == ["n000", "n011"]
    assert list(keep(every(timedelta(minutes=20), 9), Retention(hourly=2))) == ["n000", "n001"]


def test_a_period_without_any_does_not_count() -> None:
    times = [
        ("now", _NOON),
        ("old", _NOON - timedelta(days=90)),
        ("older", _NOON.replace(year=2024)),
    ]
    assert list(keep(times, Retention(daily=3))) == ["now", "old", "older"]


def test_what_several_rules_keep_says_all_of_them() -> None:
    found = keep(every(timedelta(days=1), 3), Retention(last=1, daily=2, weekly=1))
    assert found == {"n000": ("last", "daily", "weekly"), "n001": ("daily",)}


def test_days_are_those_of_the_place() -> None:
    times = [("late", datetime(2026, 3, 4, 23, 30, tzinfo=UTC)), ("early", _NOON)]
    assert list(keep(times, Retention(daily=1))) == ["late"]
    east = timezone(timedelta(hours=2))
    assert list(keep(times, Retention(daily=2), zone=east)) == ["late", "early"]


def test_nothing_and_less_than_nothing_are_no_rules() -> None:
    with pytest.raises(UsageError, match="no rule"):
        Retention()
    with pytest.raises(UsageError, match="less than none"):
        Retention(last=1, daily=-1)


_COUNTS = st.integers(0, 5)


@given(
    st.lists(st.datetimes(timezones=st.just(UTC)), max_size=30),
    st.tuples(_COUNTS, _COUNTS, _COUNTS, _COUNTS).filter(any),
)
def test_keeping_twice_keeps_the_same(
    found: list[datetime], counts: tuple[int, int, int, int]
) -> None:
    rules = Retention(**dict(zip(("last", "hourly", "daily", "weekly"), counts, strict=True)))
    times = [(f"{number}", when) for number, when in enumerate(found)]
    kept = keep(times, rules)
    assert len(kept) <= sum(counts)
    if times and rules.last:
        assert max(times, key=lambda entry: (entry[1], entry[0]))[0] in kept
    assert keep([entry for entry in times if entry[0] in kept], rules) == kept
