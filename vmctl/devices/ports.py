"""Ports of the host that lead into a machine: listed, published and withdrawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vmctl.changes import changing
from vmctl.devices.machine import recorded, spec_of, with_drives
from vmctl.errors import ConflictError, NotFoundError, RollbackError, UnsupportedError, VmctlError
from vmctl.guest import port_relays, ports
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.names import list_domains
from vmctl.progress import being_undone
from vmctl.render.domain import with_macs
from vmctl.spec import VMSpec
from vmctl.spec.nic import ForwardSpec, NicSpec, NicType

__all__ = ["Ports", "PublishedPort", "list_ports", "refuse_taken", "set_forwards"]

_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - what a spec may say


@dataclass(frozen=True, kw_only=True)
class PublishedPort:
    """A port of the host that leads into a guest.

    Attributes:
        address: The host's address that is listened on.
        host_port: The port there.
        guest_port: The guest's port.
        protocol: ``tcp`` or ``udp``.
        mac: The NIC that it leads to.
        open: Whether it is listened on. It is not while the machine is off, nor when that was
            started by others than vmctl, until `VM.start` is called.
    """

    address: str
    host_port: int
    guest_port: int
    protocol: str
    mac: str
    open: bool


def list_ports(domain: Domain) -> Sequence[PublishedPort]:
    """Return the ports that vmctl's record of a machine has, in the order of its NICs.

    Raises:
        ConflictError: vmctl did not make it.
        UnsupportedError: The host can't be asked which of them are open.
    """
    record = domain.record()
    if record is None:
        raise ConflictError(
            f"the machine '{domain.name}' was not made by vmctl",
            hint="vmctl knows the ports of what it made only",
        )
    return [
        PublishedPort(
            address=port.address,
            host_port=port.host_port,
            guest_port=port.guest_port,
            protocol=port.protocol,
            mac=port.mac,
            open=is_open,
        )
        for port, is_open in ports.is_open(domain, ports.ports_of(record.spec)).items()
    ]


def set_forwards(domain: Domain, wanted: dict[str, tuple[ForwardSpec, ...]]) -> None:
    """Let other ports lead to some of a machine's NICs, at once where it runs.

    The record has a port before it is open, and until it is closed. So whatever ends this in the
    middle, no port is open that no record has; one that is not open is opened by `VM.start`.

    Args:
        domain: The machine.
        wanted: All ports of a NIC, by its MAC address in lower case.

    Raises:
        ConflictError: A port is in use, or another machine of vmctl's has it.
        SpecError: Two of them exclude each other.
        UnsupportedError: The host can lead no port to such a NIC.
        RollbackError: It failed, and a port could not be closed, or opened again.
    """
    with changing(domain, even_saved=True) as record:
        before = with_macs(spec_of(record), domain.uuid)
        nics = tuple(
            nic.replace(forwards=wanted[nic.mac]) if nic.mac in wanted else nic
            for nic in before.nics
        )
        after = with_drives(before, nics=nics)
        old, new = recorded(before, record), recorded(after, record)
        coming = [port for port in ports.ports_of(new) if port not in ports.ports_of(old)]
        going = [port for port in ports.ports_of(old) if port not in ports.ports_of(new)]
        refuse_taken(domain, coming)
        _refuse_unreachable(domain, after, coming)
        runs = domain.is_active()
        try:
            for port in going if runs else ():
                ports.close(domain, port)
            domain.update_record(spec=new)
            # All of them: one that was published before may be closed.
            for port in ports.ports_of(new) if runs else ():
                if port.mac in wanted:
                    ports.open_one(domain, port)
        except BaseException as error:
            with being_undone():
                _undo(domain, old, coming, going, error)
            raise


def _undo(
    domain: Domain,
    spec: dict[str, object],
    coming: Sequence[ports.Port],
    going: Sequence[ports.Port],
    error: BaseException,
) -> None:
    def back() -> None:
        if domain.is_active():
            for port in coming:
                ports.close(domain, port)
        domain.update_record(spec=spec)
        if domain.is_active():
            for port in going:
                ports.open_one(domain, port)

    try:
        outlasting(back)
    except VmctlError as failure:
        raise RollbackError(
            f"the ports of '{domain.name}' could not be changed, and not all of it could be undone",
            left=tuple(f"the {p.protocol} port {p.host_port} of {p.address}" for p in coming),
            details=f"it failed because: {error}\nthe undoing failed because: {failure}",
            hint=f"`vmctl port list {domain.name}` shows which are open; they go when it stops",
        ) from error


def refuse_taken(domain: Domain, coming: Iterable[ports.Port]) -> None:
    """Refuse ports that another machine of vmctl's has, be it off or not.

    Raises:
        ConflictError: One does.
    """
    others = {
        (port.protocol, port.host_port, port.address): listed.domain.name
        for listed in list_domains(domain.connection)
        if listed.record is not None and listed.domain.uuid != domain.uuid
        for port in ports.ports_of(listed.record.spec)
    }
    for port in coming:
        for (protocol, number, address), name in others.items():
            same = (protocol, number) == (port.protocol, port.host_port)
            if same and (address == port.address or {address, port.address} & _EVERYWHERE):
                raise ConflictError(
                    f"the {protocol} port {number} of {address} leads to '{name}' already",
                    hint=f"choose another one, or `vmctl port unpublish {name} {number}`",
                )


def _refuse_unreachable(domain: Domain, spec: VMSpec, coming: Iterable[ports.Port]) -> None:
    macs = {port.mac for port in coming}
    for network in {nic.network for nic in spec.nics if nic.mac in macs}:
        if network is not None:
            port_relays.refuse_unreachable(domain.connection, network)


class Ports:
    """The ports of the host that lead into one machine.

    They last as long as it runs, whatever becomes of the client, and come back whenever vmctl
    starts it.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def list(self) -> Sequence[PublishedPort]:
        """Return the ports that lead into it, and which of them are open; see `list_ports`."""
        return list_ports(self._domain)

    def publish(self, *forwards: ForwardSpec, mac: str | None = None) -> Sequence[PublishedPort]:
        """Let ports of the host lead into the guest: at once where it runs, and at each start.

        One that does so already is opened if it is closed.

        Args:
            forwards: Which.
            mac: The NIC; None for the first that ports can lead to.

        Returns:
            All that lead into it.

        Raises:
            NotFoundError: It has no such NIC.
            ConflictError: A port is in use, leads elsewhere, or vmctl did not make the machine.
            UnsupportedError: The host can lead no port to that NIC.
        """
        nics = self._nics()
        nic = self._chosen(nics, mac)
        kept = tuple(entry for entry in nic.forwards if entry not in forwards)
        for entry in kept:
            for given in forwards:
                if _place(entry) == _place(given):
                    raise ConflictError(
                        f"the {entry.protocol} port {entry.host} of {entry.address} leads to the "
                        f"port {entry.guest} of '{self._domain.name}' already",
                        hint="withdraw it first: `vmctl port unpublish`",
                    )
        set_forwards(self._domain, {nic.mac or "": (*kept, *forwards)})
        return self.list()

    def unpublish(
        self, host_port: int, *, protocol: str = "tcp", address: str | None = None
    ) -> PublishedPort:
        """Close a port, and let it lead into the guest no more.

        Args:
            host_port: The host's port.
            protocol: ``tcp`` or ``udp``.
            address: The host's address that it is of; None for the only one that there is.

        Returns:
            What it was.

        Raises:
            NotFoundError: No such port leads into it.
            ConflictError: Several do, of different addresses.
        """
        have = self.list()
        found = [
            port
            for port in have
            if (port.host_port, port.protocol) == (host_port, protocol)
            and address in {None, port.address}
        ]
        if not found:
            told = ", ".join(f"{port.host_port}/{port.protocol}" for port in have) or "none"
            raise NotFoundError(
                f"no {protocol} port {host_port} leads into '{self._domain.name}'",
                hint=f"its ports are: {told}",
            )
        if len(found) > 1:
            raise ConflictError(
                f"the {protocol} port {host_port} leads into '{self._domain.name}' from several "
                "addresses",
                hint="say which: " + ", ".join(port.address for port in found),
            )
        (gone,) = found
        rest = tuple(
            entry
            for nic in self._nics()
            if nic.mac == gone.mac
            for entry in nic.forwards
            if _place(entry) != (protocol, gone.address, host_port)
        )
        set_forwards(self._domain, {gone.mac: rest})
        return gone

    def _nics(self) -> Sequence[NicSpec]:
        record = self._domain.record()
        if record is None:
            raise ConflictError(
                f"the machine '{self._domain.name}' was not made by vmctl",
                hint="vmctl changes only what it made; use virsh for this one",
            )
        return with_macs(spec_of(record), self._domain.uuid).nics

    def _chosen(self, nics: Sequence[NicSpec], mac: str | None) -> NicSpec:
        if mac is not None:
            wanted = mac.lower().replace("-", ":")
            found = [nic for nic in nics if nic.mac == wanted]
            if not found:
                have = ", ".join(nic.mac or "" for nic in nics) or "none"
                raise NotFoundError(
                    f"'{self._domain.name}' has no NIC '{mac[:80]}'", hint=f"its NICs are: {have}"
                )
            return found[0]
        refused: UnsupportedError | None = None
        for nic in nics:
            if nic.type is NicType.USER:
                return nic
            if nic.network is None:
                continue
            try:
                port_relays.refuse_unreachable(self._domain.connection, nic.network)
            except UnsupportedError as error:
                refused = refused or error
            else:
                return nic
        raise refused or UnsupportedError(
            f"'{self._domain.name}' has no NIC that a port of the host could lead to",
            hint="it takes one on a NAT or an isolated network, or a user-mode one: "
            "`vmctl nic attach`",
        )


def _place(forward: ForwardSpec) -> tuple[str, str, int]:
    return forward.protocol.value, forward.address, forward.host
