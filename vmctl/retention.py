"""Which of many copies are kept: the last ones, and one for each hour, day and week."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from vmctl.errors import UsageError

__all__ = ["Retention", "keep"]

_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda when: (when.year, when.month, when.day, when.hour),
    "daily": lambda when: (when.year, when.month, when.day),
    # ISO 8601: a week belongs to the year that its Thursday is in.
    "weekly": lambda when: tuple(when.isocalendar())[:2],
}


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many are kept; what any rule keeps stays.

    Attributes:
        last: The newest ones.
        hourly: Of so many hours in which there is one, the newest of each.
        daily: Likewise of days.
        weekly: Likewise of weeks, which begin on Mondays.

    Raises:
        UsageError: A number is negative, or there is no rule at all.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0

    def __post_init__(self) -> None:
        numbers = (self.last, self.hourly, self.daily, self.weekly)
        if any(number < 0 for number in numbers):
            raise UsageError(
                "less than none can't be kept", hint="give numbers from 0 on, and not all of them 0"
            )
        if not any(numbers):
            raise UsageError(
                "no rule says what is kept, so nothing would be",
                hint="say how many: the last ones, or hourly, daily and weekly ones "
                "(`--keep-last`, `--keep-hourly`, `--keep-daily`, `--keep-weekly`)",
            )


def keep(
    times: Iterable[tuple[str, datetime]],
    rules: Retention,
    *,
    zone: tzinfo = UTC,
    in_order: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Choose what is kept.

    Args:
        times: The name of each, and when it was made, with a time zone.
        rules: How many.
        zone: Where hours, days and weeks are counted.
        in_order: Whether they are given the oldest first, whatever a clock said that was wrong.

    Returns:
        The names of those that are kept, the newest first, and by which rules: ``last``,
        ``hourly``, ``daily``, ``weekly``.
    """
    oldest_first = list(times)
    if not in_order:
        oldest_first.sort(key=lambda entry: (entry[1], entry[0]))
    newest_first = oldest_first[::-1]
    reasons: dict[str, list[str]] = {name: [] for name, _when in newest_first}
    for name, _when in newest_first[: rules.last]:
        reasons[name].append("last")
    for rule, period in _PERIODS.items():
        seen: set[tuple[int, ...]] = set()
        for name, when in newest_first:
            of_this = period(when.astimezone(zone))
            if of_this in seen:
                continue
            if len(seen) == getattr(rules, rule):
                break
            seen.add(of_this)
            reasons[name].append(rule)
    return {name: tuple(found) for name, found in reasons.items() if found}
