"""Shared folders: what carries each of them, by what the host has."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.errors import UnsupportedError
from vmctl.render.facts import HostFacts
from vmctl.spec import ShareDriver, ShareSpec, VMSpec

__all__ = ["ShareView", "share_views"]


@dataclass(frozen=True, kw_only=True)
class ShareView:
    """A shared folder, its driver decided."""

    source: str
    target: str
    read_only: bool
    driver: ShareDriver


def share_views(spec: VMSpec, facts: HostFacts) -> list[ShareView]:
    """Decide what carries each shared folder.

    Raises:
        UnsupportedError: The host has nothing that could.
    """
    return [
        ShareView(
            source=share.source,
            target=share.target,
            read_only=share.read_only,
            driver=_driver(share, facts, f"shares[{index}]"),
        )
        for index, share in enumerate(spec.shares)
    ]


def _driver(share: ShareSpec, facts: HostFacts, where: str) -> ShareDriver:
    # A session's virtiofsd needs a newer libvirt than most have (10.0).
    has = {
        ShareDriver.VIRTIOFS: "virtiofs" in facts.features and facts.privileged,
        ShareDriver.NINEP: "9p" in facts.features,
    }
    if share.driver is not ShareDriver.AUTO:
        if has[share.driver]:
            return share.driver
        raise UnsupportedError(
            f"{where} needs {share.driver}, and the host does not have it",
            hint="leave driver out: another one may do; virtiofs needs the program virtiofsd there",
        )
    if has[ShareDriver.VIRTIOFS] and not share.read_only:
        return ShareDriver.VIRTIOFS
    if has[ShareDriver.NINEP]:
        return ShareDriver.NINEP
    why = "read-only folders need 9p" if share.read_only else "there is neither virtiofs nor 9p"
    raise UnsupportedError(
        f"{where}: the host can't share a folder so: {why}",
        hint="use a host whose QEMU has it, or copy the files into the guest",
    )
