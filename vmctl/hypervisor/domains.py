"""Domains: libvirt's word for machines. A handle goes by UUID, so it survives a lost connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import libvirt
import libvirt_qemu
from lxml import etree

from vmctl.errors import (
    ConflictError,
    GuestError,
    GuestUnreachableError,
    NotFoundError,
    VmctlError,
    WrongStateError,
)
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.metadata import KEY, NAMESPACE, Record
from vmctl.hypervisor.shaping import no_bandwidth

__all__ = ["ADDRESS_SOURCES", "STATES", "DiskFile", "Domain", "State", "record_of"]


class State(StrEnum):
    """A domain's state, in the words of ``virsh domstate``."""

    NO_STATE = "no state"
    RUNNING = "running"
    IDLE = "idle"
    PAUSED = "paused"
    IN_SHUTDOWN = "in shutdown"
    SHUT_OFF = "shut off"
    CRASHED = "crashed"
    SUSPENDED = "pmsuspended"


STATES = tuple(State)
"""virDomainState counts from 0 in this order."""

# What helps a machine whose state doesn't allow something.
_OUT_OF = {
    State.SHUT_OFF: "start it: `vmctl start {}`",
    State.PAUSED: "let it go on: `vmctl resume {}`",
    State.RUNNING: "stop it first: `vmctl stop {}`",
}

ADDRESS_SOURCES = {
    "lease": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    "agent": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    "arp": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
}
"""Who can be asked for a guest's addresses, the most trustworthy first."""

_UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


@dataclass(frozen=True)
class DiskFile:
    """Where a disk's content is on the host, how it is written, and its name on its bus."""

    path: str
    format: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Domain:
    """A handle to one domain. It holds no libvirt object: each call looks the domain up."""

    connection: Connection
    uuid: str
    name: str

    def raw(self) -> Any:
        """Return libvirt's own handle, for this layer only.

        Raises:
            NotFoundError: The domain is gone.
        """
        with calling(f"find the machine '{self.name}'"):
            try:
                return self.connection.raw.lookupByUUIDString(self.uuid)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    raise NotFoundError(
                        f"there is no machine '{self.name}' (any more)",
                        hint="`vmctl list` shows what there is",
                    ) from error
                raise

    @contextmanager
    def _calling(self, doing: str) -> Iterator[Any]:
        raw = self.raw()
        with calling(f"{doing} the machine '{self.name}'", on=self._wrong_state):
            yield raw

    def acting(self, doing: str) -> AbstractContextManager[Any]:
        """Give libvirt's handle to do something by, for this layer only.

        Args:
            doing: A verb, as it continues "could not ... the machine".
        """
        return self._calling(doing)

    def _wrong_state(self, error: libvirt.libvirtError) -> VmctlError | None:
        if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        state = self.state()
        return WrongStateError(
            f"the machine '{self.name}' is {state.value}: it can't do that now",
            state=state.value,
            details=error.get_error_message() or "",
            hint=_OUT_OF.get(state, "`vmctl info` shows more of its state").format(self.name),
        )

    def exists(self) -> bool:
        """Return whether libvirt still has it."""
        try:
            self.raw()
        except NotFoundError:
            return False
        return True

    def state(self) -> State:
        """Return its state."""
        with calling(f"ask for the state of '{self.name}'"):
            number: int = self.raw().state()[0]
            return STATES[number]

    def is_active(self) -> bool:
        """Return whether QEMU is there for it: it runs, is paused, or is kept as it crashed."""
        with self._calling("look at") as raw:
            return bool(raw.isActive())

    def xml(self, *, inactive: bool = False) -> str:
        """Return its XML: the live one, or the one for its next start."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        with self._calling("read") as raw:
            return str(raw.XMLDesc(flags))

    def secret_xml(self, *, live: bool = False) -> str:
        """Return the XML for its next start, or the live one, with the secrets in it."""
        flags = libvirt.VIR_DOMAIN_XML_SECURE
        if not live:
            flags |= libvirt.VIR_DOMAIN_XML_INACTIVE
        with self._calling("read") as raw:
            return str(raw.XMLDesc(flags))

    def networks(self) -> tuple[str, ...]:
        """Return the names of the libvirt networks that its NICs join at its next start."""
        root = etree.fromstring(self.xml(inactive=True))
        sources = root.findall("devices/interface[@type='network']/source[@network]")
        return tuple(dict.fromkeys(source.get("network", "") for source in sources))

    def disks(self) -> tuple[DiskFile, ...]:
        """Return its disks, without drives, in their order; a disk of a server's has no path."""
        found = []
        for node in etree.fromstring(self.xml(inactive=True)).findall("devices/disk"):
            if node.get("device", "disk") != "disk":
                continue
            source, driver, target = (node.find(tag) for tag in ("source", "driver", "target"))
            found.append(
                DiskFile(
                    path="" if source is None else source.get("file") or source.get("dev") or "",
                    format="raw" if driver is None else driver.get("type", "raw"),
                    target="" if target is None else target.get("dev", ""),
                    read_only=node.find("readonly") is not None,
                )
            )
        return tuple(found)

    def firmware(self) -> tuple[str, str]:
        """Return the paths of its UEFI's code and variables on the host; empty for a BIOS."""
        root = etree.fromstring(self.xml(inactive=True))
        return root.findtext("os/loader") or "", root.findtext("os/nvram") or ""

    # -- power ------------------------------------------------------------------------------------

    def start(self, *, paused: bool = False) -> None:
        """Start it; paused, its processors don't run until it is resumed.

        Raises:
            UnsupportedError: A NIC of it is limited, and the host's kernel can't do that.
        """
        raw = self.raw()
        with calling(f"start the machine '{self.name}'", on=self._not_started):
            raw.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    def _not_started(self, error: libvirt.libvirtError) -> VmctlError | None:
        limited = etree.fromstring(self.xml(inactive=True)).find("devices/interface/bandwidth")
        shaping = None if limited is None else no_bandwidth(self.name, error)
        return shaping or self._wrong_state(error)

    def shutdown(self) -> None:
        """Press the ACPI power button."""
        with self._calling("shut down") as raw:
            raw.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def destroy(self) -> None:
        """End it at once, as by pulling the plug. One that is off already stays so."""
        with self._calling("end") as raw:
            try:
                raw.destroy()
            except libvirt.libvirtError as error:
                if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID) or raw.isActive():
                    raise

    def suspend(self) -> None:
        """Stop its processors."""
        with self._calling("pause") as raw:
            raw.suspend()

    def resume(self) -> None:
        """Let its processors run on."""
        with self._calling("resume") as raw:
            raw.resume()

    def set_autostart(self, *, on: bool) -> None:
        """Say whether libvirt starts it with the host."""
        with self._calling("set autostart of") as raw:
            raw.setAutostart(1 if on else 0)

    def autostart(self) -> bool:
        """Return whether libvirt starts it with the host."""
        with self._calling("ask for autostart of") as raw:
            return bool(raw.autostart())

    def undefine(self) -> None:
        """Remove the definition, with its NVRAM, managed save, snapshots and checkpoints."""
        with self._calling("remove") as raw:
            raw.undefineFlags(_UNDEFINE_ALL)

    def resize_disk(self, target: str, capacity: int) -> None:
        """Give a disk of the running machine another size, in bytes; its guest is told of it."""
        with self._calling(f"resize the disk {target} of") as raw:
            raw.blockResize(target, capacity, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def disk_size(self, target: str) -> int:
        """Return what the guest sees of a disk, in bytes."""
        with self._calling(f"ask for the size of the disk {target} of") as raw:
            size: int = raw.blockInfo(target)[0]
            return size

    # -- vmctl's record ---------------------------------------------------------------------------

    def record(self) -> Record | None:
        """Return vmctl's record, or None for a machine that is not vmctl's."""
        with self._calling("read the record of") as raw:
            return record_of(raw)

    def write_record(self, record: Record) -> None:
        """Replace vmctl's record, in the definition and in the running domain alike."""
        text = record.to_xml(prefixed=False)
        with self._calling("record the state of") as raw:
            _now_and_later(
                raw,
                lambda flags: raw.setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, KEY, NAMESPACE, flags
                ),
            )

    def update_record(self, **changes: Any) -> Record:
        """Change fields of vmctl's record; returns the new one.

        Raises:
            ConflictError: The machine has no record: it is not vmctl's.
        """
        record = self.record()
        if record is None:
            raise ConflictError(
                f"the machine '{self.name}' was not made by vmctl",
                hint="vmctl changes only what it made",
            )
        changed = replace(record, **changes)
        self.write_record(changed)
        return changed

    # -- ways in ----------------------------------------------------------------------------------

    def agent(self, execute: str, arguments: dict[str, Any] | None = None, *, timeout: int) -> Any:
        """Ask the guest agent; returns what is under ``return`` in its answer.

        Args:
            execute: The command (https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html).
            arguments: Its arguments.
            timeout: Seconds to wait for the answer.

        Raises:
            GuestUnreachableError: No agent answers.
            GuestError: It answers, and refuses.
            WrongStateError: The machine does not run.
        """
        command = json.dumps({"execute": execute, "arguments": arguments or {}})
        raw = self.raw()
        with calling(f"ask the agent of '{self.name}' for {execute}", on=self.no_agent):
            answer = libvirt_qemu.qemuAgentCommand(raw, command, timeout, 0)
        return json.loads(answer)["return"]

    def no_agent(self, error: libvirt.libvirtError) -> VmctlError | None:
        """Return the error for a guest without an agent, where libvirt's says that."""
        # What the agent itself answers has no code of its own.
        refused = is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR)
        if refused and error.get_error_domain() == libvirt.VIR_FROM_QEMU:
            return GuestError(
                f"the agent of '{self.name}' refused",
                details=error.get_error_message() or "",
                hint="its version or its configuration may forbid it: see /etc/qemu in the guest",
            )
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID) and self.state() is not State.RUNNING:
            return self._wrong_state(error)
        missing = (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_INVALID)
        if not is_code(error, *missing):
            return None
        return GuestUnreachableError(
            f"no agent answers in '{self.name}'",
            details=error.get_error_message() or "",
            hint="the guest needs qemu-guest-agent, and the spec `agent: true`",
        )

    def monitor(self, command: str) -> str:
        """Run a command of QEMU's human monitor; returns its output. Taints the domain."""
        with self._calling("ask the monitor of") as raw:
            return str(
                libvirt_qemu.qemuMonitorCommand(
                    raw, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
                )
            )

    def addresses(self, source: int) -> dict[str, list[tuple[str, int]]]:
        """Return the addresses by MAC, as one source knows them.

        Args:
            source: ``VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_*``.

        Returns:
            Lower-case MAC to (address, prefix length).
        """
        with self._calling("ask for the addresses of") as raw:
            found = raw.interfaceAddresses(source, 0)
        return {
            (entry.get("hwaddr") or "").lower(): [
                (address["addr"], address["prefix"]) for address in entry.get("addrs") or ()
            ]
            for entry in found.values()
        }

    def update_device(self, xml: str, *, force: bool = False) -> None:
        """Change a device, now and for the next start."""
        with self._calling("change a device of") as raw:
            forced = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0
            _now_and_later(raw, lambda flags: raw.updateDeviceFlags(xml, flags | forced))


def _now_and_later(raw: Any, change: Callable[[int], object]) -> None:
    """Change a domain's definition and, where it runs, the running domain too."""
    if raw.isActive():
        try:
            change(libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            # It may have gone off meanwhile.
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID) or raw.isActive():
                raise
        else:
            return
    change(libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def record_of(raw: Any) -> Record | None:
    """Return vmctl's record of a domain, given libvirt's own handle; None when it has none.

    Raises:
        ConflictError: It has one that can't be read.
    """
    # A transient domain has no configuration to look into: it is nobody's of ours.
    if not raw.isPersistent():
        return None
    try:
        text = raw.metadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
        )
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN_METADATA):
            return None
        raise
    try:
        record = Record.from_xml(text)
    except ValueError as error:
        raise ConflictError(
            f"vmctl's record of the machine '{raw.name()}' can't be read",
            details=str(error),
            hint="a newer vmctl may have written it: use that one",
        ) from error
    # A copy (virt-clone, virsh define) carries the record of what it was copied from.
    return record if record.uuid == raw.UUIDString() else None
