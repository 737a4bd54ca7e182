"""Whether QEMU's user gets at a pool's folder: asked of libvirt before anything is made."""

from __future__ import annotations

import re

from lxml import etree

from vmctl.errors import UnsupportedError
from vmctl.hypervisor import pools
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling

__all__ = ["is_closed", "refuse_closed_folder"]

# As libvirt writes whom it runs QEMU as, where users and groups decide (secmodel "dac").
_LABEL = re.compile(r"\+?(\d+):\+?(\d+)")


def refuse_closed_folder(connection: Connection, pool: str) -> None:
    """Say that QEMU's user may not enter a pool's folder; only its start would show it else.

    Of the folders above nothing is known, and nothing is said.

    Raises:
        UnsupportedError: It may not.
    """
    raw = pools.find(connection, pool)
    with calling(f"ask who may enter the pool '{pool}'"):
        text = raw.XMLDesc(0)
        if not is_closed(text, "65534:65534"):
            # Open to everybody, as pools are: the host need not be asked for more.
            return
        label = etree.fromstring(connection.raw.getCapabilities()).findtext(
            "host/secmodel[model='dac']/baselabel"
        )
    if label and is_closed(text, label):
        folder = etree.fromstring(text).findtext("target/path")
        raise UnsupportedError(
            f"the folder of the pool '{pool}' is closed to QEMU, which the host runs as the user "
            f"{label.replace('+', '').partition(':')[0]}",
            hint=f"open it on the host: chmod o+x {folder}",
        )


def is_closed(pool: str, label: str) -> bool:
    """Return whether a pool's folder can't be entered by a user, as far as its mode tells.

    Args:
        pool: The pool's XML.
        label: The user and group, as in ``+64055:+64055``.
    """
    root = etree.fromstring(pool)
    mode, owner, group = (
        root.findtext(f"target/permissions/{name}") for name in ("mode", "owner", "group")
    )
    found = _LABEL.fullmatch(label)
    if root.get("type") != "dir" or not (mode and owner and group) or found is None:
        return False
    user, own_group = found[1], found[2]
    bits = int(mode, 8)
    if user == "0" or bits & 0o001:
        return False
    if user == owner:
        return not bits & 0o100
    # What other groups the user is in is the host's to know.
    return not bits & 0o010 if group == own_group else not bits & 0o011
