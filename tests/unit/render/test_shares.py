"""What carries a shared folder is decided by what the host has; where it has nothing, refused."""

from __future__ import annotations

import pytest

from vmctl.errors import UnsupportedError
from vmctl.render.facts import HostFacts
from vmctl.render.shares import share_views
from vmctl.spec import VMSpec


@pytest.mark.parametrize(
    ("features", "share", "driver"),
    [
        ({"virtiofs", "9p"}, {}, "virtiofs"),
        ({"virtiofs", "9p"}, {"read_only": True}, "9p"),
        ({"virtiofs", "9p"}, {"driver": "9p"}, "9p"),
        ({"9p"}, {}, "9p"),
        ({"virtiofs"}, {"driver": "virtiofs"}, "virtiofs"),
        ({"virtiofs"}, {"driver": "9p"}, "needs 9p, and the host does not have it"),
        ({"9p"}, {"driver": "virtiofs"}, "needs virtiofs, and the host does not have it"),
        ({"virtiofs"}, {"read_only": True}, "read-only folders need 9p"),
        (set(), {}, "neither virtiofs nor 9p"),
    ],
)
def test_driver(features: set[str], share: dict[str, object], driver: str) -> None:
    shares = [{"source": "/srv", "target": "s", **share}]
    spec = VMSpec.model_validate({"name": "a", "shares": shares})
    facts = HostFacts(features=frozenset(features))
    if " " not in driver:
        assert [view.driver for view in share_views(spec, facts)] == [driver]
        return
    with pytest.raises(UnsupportedError, match=driver) as caught:
        share_views(spec, facts)
    assert caught.value.brief.startswith("shares[0]")


def test_a_session_has_no_virtiofs() -> None:
    shares = [{"source": "/srv", "target": "s"}]
    spec = VMSpec.model_validate({"name": "a", "shares": shares})
    facts = HostFacts(features=frozenset({"virtiofs", "9p"}), privileged=False)
    assert [view.driver for view in share_views(spec, facts)] == ["9p"]
