"""Ports of the hypervisor that lead into a guest on one of its networks; see `port_program`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    PermissionDeniedError,
    UnsupportedError,
    VmctlError,
    WrongStateError,
)
from vmctl.guest.reach import Reach
from vmctl.hypervisor import names, network_facts
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain

__all__ = ["Guest", "close_port", "list_ports", "open_port", "program", "refuse_unreachable"]

_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Where a port leads.

    Attributes:
        mac: The NIC's MAC address, in lower case.
        network: The network that it is on.
        device: The host's end of it.
        fixed: The IPv4 addresses that the spec gives it.
    """

    mac: str
    network: str
    device: str
    fixed: tuple[str, ...]


def refuse_unreachable(connection: Connection, network: str) -> None:
    """Refuse a network on which the host reaches no guest, or a host that can pass nothing on.

    Raises:
        NotFoundError: There is no such network.
        UnsupportedError: It is so.
    """
    found = network_facts.served(connection, network)
    if not found.subnets:
        own = found.mode in {"bridge", "macvtap"}
        reason = f"it is of mode {found.mode}" if own else "it has no IPv4 subnet"
        raise UnsupportedError(
            f"no port of the host can lead to guests of the network '{network}': {reason}",
            hint="use a NIC on a NAT or an isolated network, or a user-mode one: `user: true`",
        )
    _ask(connection, {"command": "list", "uuid": ""})


def open_port(domain: Domain, guest: Guest, forward: dict[str, Any]) -> bool:
    """Make a port of the hypervisor lead into the guest, for as long as its NIC is there.

    Returns:
        Whether it was opened; False for one that was open.

    Raises:
        ConflictError: Something else has the port.
        UnsupportedError: The hypervisor has no such address, or can pass nothing on.
        PermissionDeniedError: The client's user there may not have the port.
        WrongStateError: The machine went off meanwhile.
    """
    subnets, reserved, hint = _addresses(domain.connection, guest)
    asked = {
        "command": "open",
        **_name(domain, forward),
        "guest_port": forward["guest"],
        "device": guest.device,
        "mac": guest.mac,
        "targets": list(guest.fixed or reserved),
        "hint": hint,
        "subnets": list(subnets),
    }
    said = _ask(domain.connection, asked)
    if "error" in said:
        raise _refused(domain, asked, said)
    return bool(said["opened"])


def close_port(domain: Domain, forward: dict[str, Any]) -> bool:
    """Close a port, and what is connected through it; returns whether it was open."""
    asked = {"command": "close", **_name(domain, forward)}
    said = _ask(domain.connection, asked)
    if "error" in said:
        raise _refused(domain, asked, said)
    return bool(said["closed"])


def list_ports(domain: Domain) -> set[tuple[str, str, int, int]]:
    """Return protocol, address, port and the guest's port of those that are open."""
    said = _ask(domain.connection, {"command": "list", "uuid": domain.uuid})
    if "error" in said:
        raise _failed(domain.connection, said["text"])
    return {
        (entry["protocol"], entry["address"], entry["port"], entry["guest_port"])
        for entry in said["ports"]
    }


def _name(domain: Domain, forward: dict[str, Any]) -> dict[str, Any]:
    return {
        "uuid": domain.uuid,
        "protocol": forward.get("protocol", "tcp"),
        "address": forward.get("address", "127.0.0.1"),
        "port": forward["host"],
    }


def _addresses(
    connection: Connection, guest: Guest
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return a network's IPv4 subnets, what is reserved there for a guest, and what it has now.

    What the guest itself says of its addresses is not asked for: it could send the host anywhere.
    """
    found = network_facts.served(connection, guest.network, mac=guest.mac)
    leased = [
        lease.address
        for lease in network_facts.leases_of(connection, guest.network)
        if lease.mac == guest.mac and "." in lease.address
    ]
    return found.subnets, found.reserved, leased[-1] if leased else ""


def program(asked: dict[str, Any]) -> str:
    """Return the text of a program that does what is asked, for a Python that has no vmctl."""
    lines = ["import json, sys, types"]
    for name in ("port_holding", "port_program"):
        module = f"vmctl.guest.{name}"
        text = resources.files("vmctl.guest").joinpath(f"{name}.py").read_text("utf-8")
        lines += [
            f"made = sys.modules[{module!r}] = types.ModuleType({module!r})",
            f"exec(compile({text!r}, {name + '.py'!r}, 'exec'), made.__dict__)",
        ]
    return "\n".join([*lines, f"made.main(json.loads({json.dumps(asked)!r}))", ""])


def _ask(connection: Connection, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        done = Reach(connection.address).run_program(
            program(asked), "vmctl-port", asked["uuid"], timeout=_SECONDS
        )
    except OSError as error:
        raise _failed(connection, str(error)) from error
    if done.returncode or not done.stdout.startswith("{"):
        last = done.stderr.strip().rpartition("\n")[2]
        raise _failed(connection, last or f"Python ended with status {done.returncode}")
    return dict(json.loads(done.stdout))


def _failed(connection: Connection, said: str) -> UnsupportedError:
    return UnsupportedError(
        f"the host {connection.address.name} can't pass on a port to a guest of its networks",
        details=said,
        hint="it takes Python 3.8 or later there, and for a remote host a login by SSH without a "
        "question; with a user-mode NIC (`user: true`) QEMU does it",
    )


def _refused(domain: Domain, asked: dict[str, Any], said: dict[str, Any]) -> VmctlError:
    place = f"the {asked['protocol']} port {asked['port']} of {asked['address']}"
    details = said.get("text") or ""
    kind = said["error"]
    if kind in {"in-use", "not-ours"}:
        owner = _owner(domain, said.get("uuid") or "")
        return ConflictError(
            f"can't forward {place} to '{domain.name}': "
            + (f"it leads to {owner}" if owner else "it is in use"),
            details=details,
            hint="choose a port that nothing else listens on",
        )
    if kind == "denied":
        return PermissionDeniedError(
            f"this user may not listen on {place} at {domain.connection.address.name}",
            details=details,
            hint="ports below 1024 are root's there; choose a higher one",
        )
    if kind == "no-address":
        return UnsupportedError(
            f"the host has no address {asked['address']} to listen on",
            details=details,
            hint="give an address that the host has, or 0.0.0.0 for all of them",
        )
    if kind == "no-device":
        return WrongStateError(
            f"'{domain.name}' lost its NIC while a port was opened for it",
            state=domain.state().value,
            details=details,
            hint="start the machine again",
        )
    return HypervisorError(
        f"{place} can't be forwarded to '{domain.name}'",
        details=details,
        hint="try again; what is listening there is shown by `ss -lptu` on the host",
    )


def _owner(domain: Domain, uuid: str) -> str:
    if not uuid:
        return ""
    try:
        return f"'{names.find(domain.connection, uuid).name}'"
    except NotFoundError:
        return ""
