"""The servers by which a person sees a machine's screen: where they listen, and their passwords."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import libvirt
from lxml import etree

from vmctl.errors import NotFoundError, WrongStateError
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["Display", "read_displays", "remove_password", "write_password"]


@dataclass(frozen=True, kw_only=True)
class Display:
    """A graphics server of a machine.

    Attributes:
        type: ``vnc`` or ``spice``.
        address: The host's address that it listens on.
        port: Its port; None when it has none, or the machine is off and the host will choose one.
        tls_port: Its port for TLS, where SPICE has one.
        password: Whether it asks for one; None where this client may not know.
        uri: What a viewer on the host takes, or empty without a port.
    """

    type: str
    address: str
    port: int | None
    tls_port: int | None
    password: bool | None
    uri: str


def read_displays(domain: Domain) -> tuple[Display, ...]:
    """Return the graphics servers, as they are now or will be at the next start."""
    root, secure = _read(domain)
    found = []
    for node in root.findall("devices/graphics"):
        listen = node.find("listen")
        given = None if listen is None else listen.get("address")
        address = given or node.get("listen") or "127.0.0.1"
        port, tls_port = _port(node, "port"), _port(node, "tlsPort")
        found.append(
            Display(
                type=node.get("type", ""),
                address=address,
                port=port,
                tls_port=tls_port,
                password=bool(node.get("passwd")) if secure else None,
                uri=_uri(node.get("type", ""), address, port, tls_port),
            )
        )
    return tuple(found)


def _port(node: etree._Element, name: str) -> int | None:
    # libvirt writes -1 for one that is yet to be chosen.
    number = int(node.get(name) or -1)
    return number if number > 0 else None


def _uri(kind: str, address: str, port: int | None, tls_port: int | None) -> str:
    if port is None and tls_port is None:
        return ""
    host = f"[{address}]" if ":" in address else address
    plain = "" if port is None else f":{port}"
    secured = "" if tls_port is None else f"?tls-port={tls_port}"
    return f"{kind}://{host}{plain}{secured}"


def _read(domain: Domain) -> tuple[etree._Element, bool]:
    """Return the domain's XML, and whether passwords are in it."""
    flags = 0 if domain.is_active() else libvirt.VIR_DOMAIN_XML_INACTIVE
    raw = domain.raw()
    with calling(f"read the displays of '{domain.name}'"):
        try:
            text = raw.XMLDesc(flags | libvirt.VIR_DOMAIN_XML_SECURE)
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_ERR_ACCESS_DENIED):
                raise
            return etree.fromstring(raw.XMLDesc(flags)), False
    return etree.fromstring(text), True


def write_password(
    domain: Domain, kind: str, password: str, *, valid_until: datetime | None
) -> None:
    """Give a graphics server another password, now and for the machine's next starts.

    Args:
        domain: The machine.
        kind: ``vnc`` or ``spice``.
        password: The password.
        valid_until: When it stops to be valid; None for never.

    Raises:
        NotFoundError: The machine has no such server.
        WrongStateError: It runs with a server that asks for none, which can't be changed.
    """
    root, _secure = _read(domain)
    node = _server(domain, root, kind)
    state = domain.state()
    if domain.is_active() and not node.get("passwd"):
        raise WrongStateError(
            f"the {kind} display of '{domain.name}' was started without a password",
            state=state.value,
            hint=f"stop it (`vmctl stop {domain.name}`), set the password, and start it",
        )
    node.set("passwd", password)
    if "passwdValidTo" in node.attrib:
        del node.attrib["passwdValidTo"]
    if valid_until is not None:
        utc = valid_until.astimezone(UTC)
        node.set("passwdValidTo", utc.strftime("%Y-%m-%dT%H:%M:%S"))
    domain.update_device(etree.tostring(node, encoding="unicode"))


def _server(domain: Domain, root: etree._Element, kind: str) -> etree._Element:
    node = root.find(f"devices/graphics[@type='{kind}']")
    if node is None:
        raise NotFoundError(
            f"'{domain.name}' has no {kind} display",
            hint="a machine has one when its spec says so: `graphics: [vnc]`",
        )
    return node


def remove_password(domain: Domain, kind: str) -> None:
    """Let a graphics server ask for no password from the machine's next start on.

    Args:
        domain: The machine; while it runs, its server goes on asking for the one that it has.
        kind: ``vnc`` or ``spice``.

    Raises:
        NotFoundError: The machine has no such server.
    """

    def change(root: etree._Element) -> etree._Element:
        node = _server(domain, root, kind)
        for name in ("passwd", "passwdValidTo"):
            node.attrib.pop(name, "")
        return root

    hotplug.redefine(domain, change)
