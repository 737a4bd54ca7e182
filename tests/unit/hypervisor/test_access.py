"""Who may enter a pool's folder."""

from __future__ import annotations

import pytest

from vmctl.errors import UnsupportedError
from vmctl.hypervisor.access import is_closed, refuse_closed_folder
from vmctl.hypervisor.connection import Connection

_QEMU = "+64055:+64055"


def pool(mode: str, owner: str = "0", group: str = "0", kind: str = "dir") -> str:
    return (
        f"<pool type='{kind}'><name>p</name><target><path>/srv/p</path><permissions>"
        f"<mode>{mode}</mode><owner>{owner}</owner><group>{group}</group>"
        "</permissions></target></pool>"
    )


@pytest.mark.parametrize(
    ("text", "label", "closed"),
    [
        (pool("0711"), _QEMU, False),
        (pool("0700"), _QEMU, True),
        (pool("0700"), "+0:+0", False),
        (pool("0700", owner="64055"), _QEMU, False),
        (pool("0600", owner="64055"), _QEMU, True),
        (pool("0750", group="64055"), _QEMU, False),
        (pool("0740", group="64055"), _QEMU, True),
        # It may be in that group as well: nobody here knows.
        (pool("0750", group="7"), _QEMU, False),
        (pool("0700", kind="logical"), _QEMU, False),
        (pool("0700"), "system_u:object_r:svirt_t", False),
        ("<pool type='dir'><target><path>/x</path></target></pool>", _QEMU, False),
    ],
)
def test_is_closed(text: str, label: str, closed: bool) -> None:
    assert is_closed(text, label) is closed


class _Host:
    """Answers as libvirt does."""

    def __init__(self, text: str, label: str) -> None:
        self._text, self._label = text, label
        self.raw = self

    def storagePoolLookupByName(self, name: str) -> _Host:  # noqa: N802
        return self

    def XMLDesc(self, flags: int) -> str:  # noqa: N802
        return self._text

    def getCapabilities(self) -> str:  # noqa: N802
        return (
            "<capabilities><host><secmodel><model>none</model></secmodel><secmodel>"
            f"<model>dac</model><baselabel type='kvm'>{self._label}</baselabel>"
            "</secmodel></host></capabilities>"
        )


def _asked(text: str, label: str) -> Connection:
    return _Host(text, label)  # type: ignore[return-value]


def test_a_closed_one_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'p' is closed to QEMU.* the user 64055") as caught:
        refuse_closed_folder(_asked(pool("0700"), _QEMU), "p")
    assert "chmod o+x /srv/p" in caught.value.hint
    refuse_closed_folder(_asked(pool("0711"), _QEMU), "p")
    refuse_closed_folder(_asked(pool("0700"), "+0:+0"), "p")
