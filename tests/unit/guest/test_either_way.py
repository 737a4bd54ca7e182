"""Which way into a guest is taken, and what is said when neither leads there."""

from __future__ import annotations

from typing import Any, cast

import pytest

from vmctl.errors import GuestUnreachableError, UsageError
from vmctl.guest.agent import Agent
from vmctl.guest.running import either_way


class FakeAgent:
    def __init__(self, *, there: bool) -> None:
        self._there = there

    def answers(self) -> bool:
        return self._there


def out_of_reach() -> Any:
    raise GuestUnreachableError(
        "'web' can't be reached by SSH", details="192.0.2.1:22: no answer", hint="is it up?"
    )


def not_by_agent() -> Any:
    raise UsageError("the agent copies files only", details="tree", hint="copy it by SSH")


def by_ssh(_opened: Any) -> Any:
    pytest.fail("SSH was out of reach")


def test_what_the_agent_can_not_do_says_why_it_was_asked() -> None:
    agent = cast(Agent, FakeAgent(there=True))
    with pytest.raises(UsageError) as caught:
        either_way(agent, None, reach=out_of_reach, by_ssh=by_ssh, by_agent=not_by_agent)
    assert caught.value.brief == "the agent copies files only"
    assert caught.value.details.splitlines() == [
        "tree",
        "it was left to the agent: 'web' can't be reached by SSH",
        "192.0.2.1:22: no answer",
    ]


def test_the_agent_that_was_asked_for_gives_no_reason_of_its_own() -> None:
    agent = cast(Agent, FakeAgent(there=True))
    with pytest.raises(UsageError) as caught:
        either_way(agent, "agent", reach=out_of_reach, by_ssh=by_ssh, by_agent=not_by_agent)
    assert caught.value.details == "tree"


def test_neither_way_is_said() -> None:
    agent = cast(Agent, FakeAgent(there=False))
    with pytest.raises(GuestUnreachableError, match="by SSH") as caught:
        either_way(agent, None, reach=out_of_reach, by_ssh=by_ssh, by_agent=not_by_agent)
    assert "its agent does not answer either" in caught.value.details
