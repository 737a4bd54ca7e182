"""What an export reads on the host, and whether that is still what it was when it began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmctl.bases import is_base
from vmctl.errors import ConflictError, ImageError, UnsupportedError
from vmctl.hypervisor.domains import DiskFile, Domain, State
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.pools import refresh
from vmctl.hypervisor.volumes import StoredVolume, VolumeStamp, at_path

__all__ = ["OFF", "Layer", "Source", "Watched", "portable_spec"]

OFF = frozenset({State.SHUT_OFF, State.CRASHED})
# More layers than anybody stacks; a host that lies could name them in a circle.
_MOST_LAYERS = 200
# What is read beside the disks.
_OTHERS = frozenset({Role.KERNEL, Role.NVRAM})


@dataclass(frozen=True)
class Layer:
    """A volume that a disk is made of, or that is carried beside the disks."""

    volume: StoredVolume
    format: str
    stamp: VolumeStamp


@dataclass(frozen=True)
class Source:
    """All that is read.

    Attributes:
        disks: The machine's disks, in their order.
        layers: Of each disk, the volumes that it is made of, the uppermost first.
        others: What is carried beside them.
    """

    disks: tuple[DiskFile, ...]
    layers: tuple[tuple[Layer, ...], ...]
    others: tuple[tuple[Role, Layer], ...]


class Watched:
    """A machine that is off, and that nobody of vmctl's starts.

    Attributes:
        domain: It.
        record: What vmctl knows of it.
        source: What there is to read.

    Raises:
        UnsupportedError: A disk is a server's, and no volume.
        NotFoundError: A volume is gone, or no pool has it.
        ImageError: A disk has layers without end.
    """

    def __init__(self, domain: Domain, record: Record, heard: Signal) -> None:
        self.domain = domain
        self.record = record
        self.source = _look(domain, record)
        self._heard = heard

    def refuse_changed(self) -> None:
        """See that it was left alone since then: by virsh, too, which asks nobody.

        Raises:
            ConflictError: It was started, or what was read was changed or switched.
            NotFoundError: It is gone, or what was read is.
        """
        what = ""
        if self.domain.state() not in OFF or self._heard.saw_start:
            what = "it was started"
        elif self.domain.disks() != self.source.disks:
            what = "its disks were switched, as by a snapshot"
        elif _look(self.domain, self.record) != self.source:
            what = "a disk of it was changed"
        if what:
            raise ConflictError(
                f"'{self.domain.name}' did not stay as it was while its disks were read: {what}",
                hint="see that it is off, and leave it alone until that has ended",
            )


def _look(domain: Domain, record: Record) -> Source:
    disks = domain.disks()
    return Source(
        disks=disks,
        layers=tuple(tuple(_layers(domain, record, disk)) for disk in disks),
        others=tuple(_others(domain, record)),
    )


def _layers(domain: Domain, record: Record, disk: DiskFile) -> Iterator[Layer]:
    if not disk.path:
        raise UnsupportedError(
            f"the disk {disk.target} of '{domain.name}' is a server's, and not a volume",
            hint="copy it where it is served, by `qemu-img convert`",
        )
    own = {(volume.pool, volume.name) for volume in record.volumes}
    path, kind = disk.path, disk.format
    for _ in range(_MOST_LAYERS):
        volume = at_path(domain.connection, path)
        facts = volume.facts()
        if not kind:
            # An overlay of somebody else's that doesn't say. libvirt made a base's volume as a
            # plain file, and may not have looked into it since.
            kind = "qcow2" if is_base(volume.name) else facts.format
        stamp = volume.stamp()
        if (volume.pool, volume.name) not in own:
            # libvirt gives it to QEMU, and takes it back, whenever a machine above it is started.
            stamp = replace(stamp, touched="")
        yield Layer(volume, kind, stamp)
        if kind != "qcow2" or not facts.backing:
            return
        # Not what libvirt takes it for: a raw disk that is frozen under a snapshot holds what its
        # guest wrote, be it a header that leads to a disk of another's.
        path, kind = facts.backing, volume.format_underneath()
    raise ImageError(
        f"the disk {disk.target} of '{domain.name}' has more than {_MOST_LAYERS} layers",
        hint="`vmctl doctor` looks at the volumes of the host",
    )


def _others(domain: Domain, record: Record) -> Iterator[tuple[Role, Layer]]:
    for owned in record.volumes:
        if owned.role in _OTHERS:
            volume = StoredVolume(domain.connection, owned.pool, owned.name)
            if owned.role is Role.NVRAM:
                refresh(domain.connection, owned.pool)
                if not volume.exists():
                    # It was never started.
                    continue
            yield owned.role, Layer(volume, "raw", volume.stamp())


def portable_spec(recorded: dict[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """Return a recorded spec without the images and paths of the place that it leaves.

    Args:
        recorded: The spec.
        targets: The name of each of its disks on its bus, which it keeps.
    """
    drop = {"image", "volume", "network", "read_only", "format"}
    disks = [
        {key: value for key, value in disk.items() if key not in drop}
        for disk in recorded.get("disks") or ()
    ]
    for disk, target in zip(disks, targets, strict=True):
        disk["target"] = target
    return {**recorded, "image": None, "disks": disks}
