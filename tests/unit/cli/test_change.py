"""What is shown of a change before it is made."""

from __future__ import annotations

from typing import Any

import pytest

from vmctl.cli.change import _left_out, _print_differences
from vmctl.intent.differences import Action, Difference
from vmctl.intent.planning import ChangePlan
from vmctl.intent.rules import When


def plan_of(*differences: tuple[str, Any, Any, When]) -> ChangePlan:
    return ChangePlan(
        name="web",
        differences=tuple(
            Difference(path=path, action=Action.CHANGE, before=before, after=after, when=when)
            for path, before, after, when in differences
        ),
        drift=(),
        pending=(),
    )


PLAN = plan_of(
    ("memory", "1GiB", "2GiB", When.LIVE),
    (
        "graphics",
        [],
        [{"type": "vnc", "listen": "127.0.0.1", "port": None, "extra": []}],
        When.NEXT_START,
    ),
    ("image", "a", None, When.ANEW),
)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"live_only": False, "skip_anew": False}, ()),
        ({"live_only": True, "skip_anew": False}, ("graphics",)),
        ({"live_only": True, "skip_anew": True}, ("graphics", "image")),
    ],
)
def test_what_the_options_leave_out_is_known_before(
    options: dict[str, bool], left: tuple[str, ...]
) -> None:
    assert _left_out(PLAN, **options) == left


def test_a_row_has_what_is_given_and_whether_it_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_differences(PLAN, ("graphics",))
    _head, memory, graphics, image = capsys.readouterr().out.splitlines()
    assert memory.split() == ["memory", "1GiB", "2GiB", "live"]
    assert '[{"type": "vnc", "listen": "127.0.0.1"}]' in graphics
    assert graphics.endswith("next start (left out)")
    assert image.split() == ["image", "a", "-", "anew"]
