"""Storage pools: where volumes lie, by libvirt's kinds (https://libvirt.org/storage.html)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.document import SpecDocument
from vmctl.spec.text import HostPath, Line, LongLine, ObjectName

__all__ = [
    "HostAddress",
    "Iqn",
    "OneOrMore",
    "PoolAuth",
    "PoolHost",
    "PoolSource",
    "PoolSpec",
    "PoolType",
    "SecretReference",
]


class PoolType(StrEnum):
    """libvirt's kinds of pools."""

    DIR = "dir"
    FS = "fs"
    NETFS = "netfs"
    LOGICAL = "logical"
    DISK = "disk"
    ISCSI = "iscsi"
    ISCSI_DIRECT = "iscsi-direct"
    RBD = "rbd"
    ZFS = "zfs"


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """Which fields a kind has: paths below the spec, as they are written."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    one_host: bool = True
    one_device: bool = True
    formats: tuple[str, ...] = ()


_FS_FORMATS = (
    *("auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+"),
    *("xfs", "ocfs2", "vmfs"),
)
_RULES = {
    PoolType.DIR: _Rules(needs=("target",)),
    PoolType.FS: _Rules(
        needs=("source.devices", "target"), may=("source.format",), formats=_FS_FORMATS
    ),
    PoolType.NETFS: _Rules(
        needs=("source.hosts", "source.dir", "target"),
        may=("source.format",),
        formats=("auto", "nfs", "cifs", "glusterfs"),
    ),
    PoolType.LOGICAL: _Rules(
        needs=("source.name",),
        may=("source.devices", "source.format", "target"),
        one_device=False,
        formats=("lvm2", "unknown"),
    ),
    PoolType.DISK: _Rules(
        needs=("source.devices",),
        may=("source.format", "target"),
        formats=("dos", "gpt", "dvh", "mac", "bsd", "pc98", "sun", "lvm2", "unknown"),
    ),
    PoolType.ISCSI: _Rules(
        needs=("source.hosts", "source.devices"),
        may=("source.initiator", "source.auth", "target"),
    ),
    PoolType.ISCSI_DIRECT: _Rules(
        needs=("source.hosts", "source.devices", "source.initiator"), may=("source.auth",)
    ),
    PoolType.RBD: _Rules(
        needs=("source.hosts", "source.name"), may=("source.auth",), one_host=False
    ),
    PoolType.ZFS: _Rules(needs=("source.name",), may=("source.devices", "target")),
}
_DEFAULT_TARGETS = {PoolType.DISK: "/dev", PoolType.ISCSI: "/dev/disk/by-path"}
_IQN_DEVICES = {PoolType.ISCSI, PoolType.ISCSI_DIRECT}
_RELATIVE_FORMATS = {"cifs", "glusterfs"}

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
# As libvirt's schema has it (RFC 3720, 3.2.6.3.1).
_IQN = re.compile(r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9.-]+(:[^/\s]+)?")


def _host(text: str) -> str:
    if _HOST.fullmatch(text) is None:
        raise ValueError(f"{text[:60]!r} is not a host's name or address; a port goes into `port`")
    return text


def _iqn(text: str) -> str:
    if _IQN.fullmatch(text) is None:
        raise ValueError(
            f"{text[:60]!r} is not an iSCSI name; they are like iqn.2025-01.org.example:disks"
        )
    return text


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a UUID") from None


def _folder(path: str) -> str:
    if path.rstrip("/") == "" or ".." in path.split("/"):
        raise ValueError(f"{path!r} can't be a pool's folder: not '/', and without '..'")
    return path.rstrip("/")


def _as_list(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Mapping) else value


HostAddress = Annotated[Line, AfterValidator(_host)]
"""A host's name or IP address, without a port."""

Iqn = Annotated[str, Field(max_length=223), AfterValidator(_iqn)]
"""An iSCSI qualified name, of at most 223 bytes (RFC 3720)."""

OneOrMore = BeforeValidator(_as_list)
"""Lets a list of one be written without the list."""


class PoolHost(SpecModel):
    """A server that a pool's data comes from."""

    short_form: ClassVar[str | None] = "name"

    name: HostAddress
    """Its name or IP address."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Its port; the protocol's own when it is not given."""


class SecretReference(SpecModel):
    """Names one of libvirt's secrets (`virsh secret-list`), which is never itself in a spec."""

    short_form: ClassVar[str | None] = "usage"

    usage: Line | None = None
    """The secret's usage name."""
    uuid: Annotated[str, AfterValidator(_uuid)] | None = None
    """The secret's UUID."""

    def _problems(self) -> list[SpecProblem]:
        if (self.usage is None) == (self.uuid is None):
            return [SpecProblem("", "a secret is named by its usage or by its uuid")]
        return []


class PoolAuth(SpecModel):
    """Who a server is told to be asked by: CHAP for iSCSI, cephx for RBD."""

    username: Line
    """The user's name there."""
    secret: SecretReference
    """Which of libvirt's secrets has the password."""


class PoolSource(SpecModel):
    """Where a pool's data comes from."""

    hosts: Annotated[tuple[PoolHost, ...], OneOrMore] = ()
    """Servers: one, or for rbd a list."""
    devices: Annotated[tuple[LongLine, ...], OneOrMore] = ()
    """Device paths, or the name of an iSCSI target: one, or for logical a list."""
    dir: LongLine | None = None
    """The folder that a server exports."""
    name: Line | None = None
    """The name of the volume group, of the RBD pool or of the zpool."""
    format: Line | None = None
    """The file system, or the kind of partition table."""
    initiator: Iqn | None = None
    """The iSCSI name that the host calls itself."""
    auth: PoolAuth | None = None
    """Who logs in, by a reference to one of libvirt's secrets."""


class PoolSpec(SpecDocument):
    """What one storage pool shall be."""

    name: ObjectName
    """Its name."""
    type: PoolType
    """libvirt's kind of it."""
    source: PoolSource = PoolSource()
    """Where its data comes from."""
    target: Annotated[HostPath, AfterValidator(_folder)] | None = None
    """The folder on the host that its volumes are in."""
    autostart: bool = True
    """Whether it starts together with its host."""

    @property
    def target_path(self) -> str | None:
        """The target, or the one that libvirt's own documents give for the kind."""
        return self.target or _DEFAULT_TARGETS.get(self.type)

    @model_validator(mode="before")
    @classmethod
    def _source_of_nothing(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "source" in data and data["source"] is None:
            return {key: value for key, value in data.items() if key != "source"}
        return data

    def _problems(self) -> list[SpecProblem]:
        rules = _RULES[self.type]
        given = {
            f"source.{name}"
            for name in PoolSource.model_fields
            if getattr(self.source, name) not in {None, ()}
        }
        if self.target is not None:
            given.add("target")
        problems = [
            SpecProblem(field, f"a pool of type {self.type} needs it")
            for field in rules.needs
            if field not in given
        ]
        problems += [
            SpecProblem(field, f"a pool of type {self.type} has no such thing; leave it out")
            for field in sorted(given - {*rules.needs, *rules.may})
        ]
        return problems or [*self._counts(rules), *self._values(rules)]

    def _counts(self, rules: _Rules) -> list[SpecProblem]:
        problems = []
        if rules.one_host and len(self.source.hosts) > 1:
            problems.append(SpecProblem("source.hosts", f"a pool of type {self.type} has one host"))
        if rules.one_device and len(self.source.devices) > 1:
            problems.append(
                SpecProblem("source.devices", f"a pool of type {self.type} has one device")
            )
        return problems

    def _values(self, rules: _Rules) -> list[SpecProblem]:
        problems = []
        source = self.source
        if source.format is not None and source.format not in rules.formats:
            problems.append(
                SpecProblem(
                    "source.format", f"{source.format} is not one of {', '.join(rules.formats)}"
                )
            )
        for index, device in enumerate(source.devices):
            path = f"source.devices[{index}]"
            if self.type in _IQN_DEVICES:
                if _IQN.fullmatch(device) is None:
                    problems.append(
                        SpecProblem(path, "names an iSCSI target: iqn.2025-01.org.example:disks")
                    )
            elif not device.startswith("/"):
                problems.append(SpecProblem(path, f"{device} is not an absolute path on the host"))
        relative = source.format in _RELATIVE_FORMATS
        if source.dir is not None and not relative and not source.dir.startswith("/"):
            problems.append(SpecProblem("source.dir", f"{source.dir} is not an absolute path"))
        return problems
