"""Devices of a machine that come, go and change: now, at its next start, or both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from vmctl.errors import HypervisorError, VmctlError, WaitTimeoutError, WrongStateError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code, translate

__all__ = [
    "Scope",
    "alias_of",
    "attach",
    "blank_source",
    "capacity",
    "change_medium",
    "definition",
    "detach_controller",
    "detach_next",
    "detach_now",
    "device_nodes",
    "find_node",
    "free_ports",
    "has_controller",
    "identity_of",
    "mentions",
    "redefine",
    "scope_of",
    "snapshots_with",
    "source_of",
    "update",
]

_PORT = "pcie-root-port"


@dataclass(frozen=True)
class Scope:
    """Where a change is made: the running machine, the definition of its next start, or both."""

    now: bool
    later: bool = True

    @property
    def flags(self) -> int:
        """The ``virDomainModificationImpact`` that says so."""
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE if self.now else 0
        return live | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if self.later else 0)


def scope_of(domain: Domain, *, next_start: bool) -> Scope:
    """Return where a change is made: everywhere, unless it shall wait or the machine is off."""
    return Scope(now=not next_start and domain.is_active())


# -- looking --------------------------------------------------------------------------------------


def definition(domain: Domain, *, later: bool) -> etree._Element:
    """Return the machine's XML, parsed: the running one's, or the next start's."""
    return etree.fromstring(domain.xml(inactive=later))


def device_nodes(root: etree._Element, kind: str) -> list[etree._Element]:
    """Return the devices of a kind: ``disk``, ``interface``, ``memory``, ``controller``."""
    return list(root.findall(f"devices/{kind}"))


def identity_of(node: etree._Element) -> str:
    """Return what a person calls a device: a disk's target, a NIC's MAC address."""
    if node.tag == "interface":
        mac = node.find("mac")
        return "" if mac is None else (mac.get("address") or "").lower()
    target = node.find("target")
    return "" if target is None else target.get("dev", "")


def find_node(root: etree._Element, kind: str, identity: str) -> etree._Element | None:
    """Return the device of that name, or None."""
    return next((n for n in device_nodes(root, kind) if identity_of(n) == identity), None)


def source_of(node: etree._Element) -> str:
    """Return what a disk or a medium is: its path on the host, or a server's; empty for nothing."""
    source = node.find("source")
    if source is None:
        return ""
    where = source.get("file") or source.get("dev")
    if where or not source.get("protocol"):
        return where or ""
    return f"{source.get('protocol')}:{source.get('name', '')}"


def alias_of(node: etree._Element) -> str:
    """Return libvirt's own name of a running machine's device."""
    alias = node.find("alias")
    return "" if alias is None else alias.get("name", "")


def mentions(root: etree._Element, word: str) -> bool:
    """Return whether any device has a target, an address or a path of that value."""
    return any(word in map(str, node.attrib.values()) for node in root.iterfind("devices//*"))


def plugged_in(root: etree._Element) -> set[tuple[str, str]]:
    """Return MAC address and network of each NIC that joins one of libvirt's."""
    return {
        (identity_of(node), source.get("network", ""))
        for node in device_nodes(root, "interface")
        if (source := node.find("source")) is not None and source.get("network")
    }


def has_controller(root: etree._Element, kind: str) -> bool:
    """Return whether there is a controller of a kind (``scsi``, ``usb``)."""
    nodes = device_nodes(root, "controller")
    return any(node.get("type") == kind and node.get("model") != "none" for node in nodes)


def free_ports(root: etree._Element) -> int | None:
    """Return how many PCI Express ports are free; None for a machine that has none at all."""
    ports = {
        int(node.get("index", "0"))
        for node in device_nodes(root, "controller")
        if node.get("model") == _PORT
    }
    if not ports:
        return None
    taken = {
        int(node.get("bus", "0"), 0) for node in root.iterfind("devices//address[@type='pci']")
    }
    return len(ports - taken)


def capacity(domain: Domain, target: str) -> int | None:
    """Return what the guest sees of a disk, in bytes; None where that isn't known."""
    try:
        with calling(f"ask for the size of {target}"):
            size: int = domain.raw().blockInfo(target, 0)[0]
            return size
    except VmctlError:
        # A server's disk, of a machine that is off.
        return None


def snapshots_with(domain: Domain, path: str) -> list[str]:
    """Return the names of the machine's snapshots that a file is a part of."""
    with calling(f"look at the snapshots of '{domain.name}'"):
        return [
            snapshot.getName()
            for snapshot in domain.raw().listAllSnapshots(0)
            if mentions_anywhere(etree.fromstring(snapshot.getXMLDesc(0)), path)
        ]


def mentions_anywhere(root: etree._Element, path: str) -> bool:
    """Return whether a path stands anywhere in a document."""
    return any(path in map(str, node.attrib.values()) for node in root.iter(etree.Element))


def blank_source(node: etree._Element) -> etree._Element:
    """Take the medium out of a drive's XML, with all that is only true while it runs."""
    for tag in ("source", "backingStore"):
        for child in node.findall(tag):
            node.remove(child)
    return node


# -- changing -------------------------------------------------------------------------------------


def attach(domain: Domain, xml: str, scope: Scope, *, what: str) -> None:
    """Attach a device.

    Args:
        domain: The machine.
        xml: The device.
        scope: Where.
        what: The device, as it continues "attach ...".
    """
    with calling(f"attach {what} to '{domain.name}'"):
        domain.raw().attachDeviceFlags(xml, scope.flags)


def update(domain: Domain, xml: str, scope: Scope, *, what: str, force: bool = False) -> None:
    """Change a device."""
    forced = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0
    with calling(f"change {what} of '{domain.name}'"):
        domain.raw().updateDeviceFlags(xml, scope.flags | forced)


def change_medium(domain: Domain, xml: str, scope: Scope, *, target: str, force: bool) -> None:
    """Change what is in a drive.

    Raises:
        WrongStateError: The guest has locked its tray.
    """
    forced = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0
    with calling(
        f"change the medium in {target} of '{domain.name}'",
        on=lambda error: _locked(domain, target, error),
    ):
        domain.raw().updateDeviceFlags(xml, scope.flags | forced)


def _locked(domain: Domain, target: str, error: libvirt.libvirtError) -> VmctlError | None:
    # QEMU can't say more than that the tray did not open.
    if not is_code(error, libvirt.VIR_ERR_OPERATION_FAILED):
        return None
    return WrongStateError(
        f"the guest of '{domain.name}' has locked the tray of {target}",
        state=domain.state().value,
        details=error.get_error_message() or "",
        hint="unmount it in the guest first; --force, or force=True, opens the tray nevertheless",
    )


def detach_controller(domain: Domain, xml: str, scope: Scope) -> None:
    """Take a controller away again that was attached for a device which then could not be."""
    with calling(f"detach a controller from '{domain.name}'"):
        domain.raw().detachDeviceFlags(xml, scope.flags)


def detach_next(domain: Domain, kind: str, identity: str) -> None:
    """Take a device out of the definition of the next start, if it is in it."""
    node = find_node(definition(domain, later=True), kind, identity)
    if node is None:
        return
    with calling(f"take {identity} out of the definition of '{domain.name}'"):
        domain.raw().detachDeviceFlags(
            etree.tostring(node, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_CONFIG
        )


def detach_now(domain: Domain, kind: str, identity: str, *, timeout: float) -> None:
    """Ask the guest to let go of a device, and wait until it is gone from the running machine.

    Raises:
        WaitTimeoutError: The guest did not answer.
        WrongStateError: The guest refused.
    """
    node = find_node(definition(domain, later=False), kind, identity)
    if node is None:
        return
    alias = alias_of(node)
    with domain.connection.events.listening(domain.uuid) as signal:

        def answer() -> bool | None:
            if alias in signal.refused:
                return False
            root = definition(domain, later=False)
            gone = find_node(root, kind, identity) is None or not domain.is_active()
            return True if gone else None

        deadline = time.monotonic() + timeout
        _ask_to_let_go(domain, alias, identity)
        let_go = signal.wait_for(answer, deadline=deadline)
    if let_go is None:
        raise WaitTimeoutError(
            f"the guest of '{domain.name}' did not let go of {identity} within {timeout:g} s",
            phase="detach",
            details="nothing was changed; it still has it, unless its answer comes later",
            hint="a guest that boots, or has no driver for it, does not answer: detach it again "
            "later, or for the next start only",
        )
    if not let_go:
        raise WrongStateError(
            f"the guest of '{domain.name}' refused to let go of {identity}",
            state="running",
            hint="something in the guest uses it: end that, and detach it again",
        )


def _ask_to_let_go(domain: Domain, alias: str, identity: str) -> None:
    with calling(f"detach {identity} from '{domain.name}'"):
        try:
            domain.raw().detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            # QEMU refuses a second request while the guest has not answered the first; then that
            # one's answer is waited for.
            if not isinstance(translate(error, "detach"), HypervisorError) or not _has(
                domain, alias
            ):
                raise


def _has(domain: Domain, alias: str) -> bool:
    return any(alias_of(node) == alias for node in _all(definition(domain, later=False)))


def _all(root: etree._Element) -> Iterator[etree._Element]:
    yield from root.iterfind("devices/*")


def redefine(domain: Domain, change: Callable[[etree._Element], etree._Element]) -> None:
    """Replace the definition of the next start by what is made of it.

    Args:
        domain: The machine.
        change: Returns the new definition; it is given the old one, with the passwords of its
            displays, which would be lost without.
    """
    raw: Any = domain.raw()
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    with calling(f"read the definition of '{domain.name}'"):
        root = etree.fromstring(raw.XMLDesc(flags))
    text = etree.tostring(change(root), encoding="unicode")
    with calling(f"change the definition of '{domain.name}'"):
        domain.connection.raw.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
