"""Disks whose data a server has: NBD exports, iSCSI LUNs, RBD images."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.pool import Iqn, OneOrMore, PoolAuth, PoolHost
from vmctl.spec.text import HostPath, Line

__all__ = ["DiskProtocol", "NetworkDiskSpec"]


class DiskProtocol(StrEnum):
    """What a disk's server speaks."""

    NBD = "nbd"
    ISCSI = "iscsi"
    RBD = "rbd"


_LUN = re.compile(r"iqn\.[^/]+/[0-9]+")
_IMAGE = re.compile(r"[^/]+/.+")


class NetworkDiskSpec(SpecModel):
    """Where a disk's data is served. QEMU itself connects there, from the host."""

    protocol: DiskProtocol
    """`nbd`, `iscsi` or `rbd`."""
    hosts: Annotated[tuple[PoolHost, ...], OneOrMore] = ()
    """The server, as the host of the machine reaches it; for rbd a list of monitors."""
    socket: HostPath | None = None
    """A UNIX socket on the host, in the place of a server's name; for nbd."""
    name: Line | None = None
    """The NBD export (its only one when it is not given), `IQN/LUN`, or `POOL/IMAGE`."""
    initiator: Iqn | None = None
    """The iSCSI name that the host calls itself."""
    auth: PoolAuth | None = None
    """Who logs in, by a reference to one of libvirt's secrets; for iscsi and rbd."""

    def _problems(self) -> list[SpecProblem]:
        problems = []
        nbd, iscsi = self.protocol is DiskProtocol.NBD, self.protocol is DiskProtocol.ISCSI
        if bool(self.hosts) == (self.socket is not None):
            problems.append(SpecProblem("hosts", "a server is named by its host or by its socket"))
        if self.socket is not None and not nbd:
            problems.append(SpecProblem("socket", f"{self.protocol} has no UNIX socket"))
        if len(self.hosts) > 1 and self.protocol is not DiskProtocol.RBD:
            problems.append(SpecProblem("hosts", f"{self.protocol} has one server"))
        if iscsi and _LUN.fullmatch(self.name or "") is None:
            problems.append(SpecProblem("name", "is IQN/LUN: iqn.2025-01.org.example:disks/1"))
        if self.protocol is DiskProtocol.RBD and _IMAGE.fullmatch(self.name or "") is None:
            problems.append(SpecProblem("name", "is POOL/IMAGE"))
        if self.initiator is not None and not iscsi:
            problems.append(SpecProblem("initiator", f"{self.protocol} has no initiator"))
        if self.auth is not None and nbd:
            problems.append(SpecProblem("auth", "nbd has no passwords"))
        return problems
