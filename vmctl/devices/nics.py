"""NICs of a machine: listed, attached, detached, their cables and limits, while it runs or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lxml import etree

from vmctl import group_members, nic_filters
from vmctl.changes import carry_out, changing
from vmctl.devices.disk_detaching import DETACH_SECONDS
from vmctl.devices.machine import as_given, not_live, port_problem, recorded, spec_of, with_drives
from vmctl.devices.ports import refuse_taken
from vmctl.errors import NotFoundError, SpecError, SpecProblem, UnsupportedError
from vmctl.guest import port_relays, ports
from vmctl.hypervisor import hotplug, networks, tuning
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.host_devices import refuse_missing_device
from vmctl.hypervisor.hotplug import Scope
from vmctl.hypervisor.metadata import Pending
from vmctl.networking.reserving import plan_addresses, refuse_taken_macs, reserve
from vmctl.progress import ProgressCallback, Reporter
from vmctl.render.attached import render_nic
from vmctl.render.choices import refuse_nic
from vmctl.render.domain import with_macs
from vmctl.render.facts import HostFacts
from vmctl.render.templates import Templates
from vmctl.render.wishes import wished_of
from vmctl.spec import BandwidthSpec, LinkState, NicSpec, VMSpec
from vmctl.tenancy import fenced, refuse_foreign_nics

__all__ = [
    "AttachedNic",
    "Nics",
    "attach_nic",
    "detach_nic",
    "limit_nic",
    "list_nics",
    "set_link",
    "why_not_attached_live",
    "why_not_detached_live",
]

_LINK_AFTER = ("bandwidth", "target", "model", "source", "mac")


@dataclass(frozen=True, kw_only=True)
class AttachedNic:
    """A NIC of a machine.

    Attributes:
        mac: Its MAC address, by which it is called.
        type: ``network``, ``bridge`` or ``user``.
        source: The network or the bridge; empty in user mode.
        model: The hardware that the guest sees.
        link: ``up`` or ``down``.
        filter: The packet filter that it has; empty for none.
        bandwidth: ``inbound`` and ``outbound`` to ``average``, ``peak`` and ``burst``, in KiB.
        now: Whether the running machine has it; False for a machine that is off.
        later: Whether the machine has it at its next start.
    """

    mac: str
    type: str
    source: str
    model: str
    link: str = "up"
    filter: str = ""
    bandwidth: dict[str, dict[str, int]] = field(default_factory=dict)
    now: bool = False
    later: bool = True


def list_nics(domain: Domain) -> Sequence[AttachedNic]:
    """Return the NICs that the machine has now, or will have at its next start."""
    later = nic_nodes(domain, later=True)
    now = nic_nodes(domain, later=False) if domain.is_active() else {}
    return [
        _describe(mac, node, now=mac in now, later=mac in later)
        for mac, node in {**later, **now}.items()
    ]


def nic_nodes(domain: Domain, *, later: bool) -> dict[str, etree._Element]:
    nodes = hotplug.device_nodes(hotplug.definition(domain, later=later), "interface")
    return {hotplug.identity_of(node): node for node in nodes}


def _describe(mac: str, node: etree._Element, *, now: bool, later: bool) -> AttachedNic:
    source, model, link, guard = (
        node.find(tag) for tag in ("source", "model", "link", "filterref")
    )
    rates = node.find("bandwidth")
    return AttachedNic(
        mac=mac,
        type=node.get("type", ""),
        source=""
        if source is None
        else source.get("network") or source.get("bridge") or source.get("dev") or "",
        model="" if model is None else model.get("type", ""),
        link="up" if link is None else link.get("state", "up"),
        filter="" if guard is None else guard.get("filter", ""),
        bandwidth={}
        if rates is None
        else {
            str(way.tag): {str(name): int(value) for name, value in way.attrib.items()}
            for way in rates
        },
        now=now,
        later=later,
    )


def find_nic(domain: Domain, mac: str) -> AttachedNic:
    nics = list_nics(domain)
    wanted = mac.lower().replace("-", ":")
    for nic in nics:
        if nic.mac == wanted:
            return nic
    have = ", ".join(nic.mac for nic in nics) or "none"
    raise NotFoundError(f"'{domain.name}' has no NIC '{mac[:80]}'", hint=f"its NICs are: {have}")


def why_not_attached_live(domain: Domain) -> str | None:
    """Return why no NIC can be attached to the running machine; None if one can."""
    return port_problem(domain.name, hotplug.definition(domain, later=False))


def attach_nic(
    domain: Domain,
    nic: NicSpec,
    *,
    facts: HostFacts,
    templates: Templates | None = None,
    next_start: bool = False,
    progress: ProgressCallback | None = None,
) -> AttachedNic:
    """Attach a NIC: to the running machine, and for its next start.

    The guest sets it up as it sets up any new NIC: cloud-init is over, so a static address in the
    spec is recorded, and not set.

    Args:
        domain: The machine.
        nic: What it is.
        facts: What the host can do.
        templates: Templates to use instead of the default ones.
        next_start: Whether a running machine gets it when it is started the next time only.
        progress: Told of the one phase, ``attach``.

    Raises:
        SpecError: The machine can have no such NIC, or not with this address.
        UnsupportedError: The running machine can't get it, or the host can't have it.
        NotFoundError: There is no such network, or no such bridge.
        ConflictError: Somebody else is at work on the machine, or another one has a port of it.
    """
    with changing(domain) as record:
        before = spec_of(record)
        _refuse_taken(domain, before, nic)
        with as_given("the NIC", f"nics[{len(before.nics)}]"):
            spec = with_macs(with_drives(before, nics=(*before.nics, nic)), domain.uuid)
            first = len(before.nics)
            refuse_taken_macs(domain.connection, (nic,), uuid=domain.uuid, first=first)
            planned = plan_addresses(domain.connection, spec, domain.uuid, first=first)
        new = wished_of(spec, spec.nics[-1], facts)
        refuse_nic(new, "the new NIC", facts)
        refuse_foreign_nics(
            domain.connection, domain.name, before.tenant, (new,), named=lambda _number: ""
        )
        (new,) = fenced(domain.connection, before.tenant, [new])
        spec = spec.model_copy(update={"nics": (*spec.nics[:-1], new)})
        refuse_nic(new, "the new NIC", facts)
        nic_filters.refuse_unfilterable(domain.connection, [("the new NIC", new)])
        if new.network is not None and new.forwards:
            port_relays.refuse_unreachable(domain.connection, new.network)
        if new.forwards:
            refuse_taken(
                domain,
                [port for port in ports.ports_of(recorded(spec, record)) if port.mac == new.mac],
            )
        if new.bridge is not None:
            whose = f"the machine '{domain.name}'"
            refuse_missing_device(domain.connection, new.bridge, "bridge", whose)
        scope = hotplug.scope_of(domain, next_start=next_start)
        problem = why_not_attached_live(domain) if scope.now else None
        if problem is not None:
            raise not_live(problem)
        mac = new.mac or ""

        def act() -> None:
            kept = (*record.addresses, *(entry.entry for entry in planned))
            domain.update_record(addresses=kept)
            reserve(domain, spec, planned)
            if new.network is not None and scope.now:
                networks.ensure_active(domain.connection, new.network)
            nic_filters.ensure(domain.connection, [new], templates)
            reserved = (domain.record() or record).addresses
            known = nic_filters.known_addresses(domain.connection, [new], reserved).get(mac, ())
            xml = render_nic(new, known=known, templates=templates)
            with Reporter(domain.name, progress).phase("attach"):
                tuning.attach_nic(domain, xml, scope, mac, limited=new.bandwidth is not None)

        carry_out(domain, Pending(device=mac, present=True, spec=recorded(spec, record)), act)
        if scope.now and new.forwards:
            ports.open_all(domain, recorded(spec, record))
    group_members.refresh(domain.connection, new.security_groups)
    return find_nic(domain, mac)


def _refuse_taken(domain: Domain, spec: VMSpec, nic: NicSpec) -> None:
    if nic.mac is not None and nic.mac in {entry.mac for entry in spec.nics}:
        raise SpecError(
            f"'{domain.name}' has a NIC '{nic.mac}' already",
            problems=[SpecProblem("mac", f"{nic.mac} is taken")],
            hint="leave the MAC address out, or choose another one",
        )


def why_not_detached_live(domain: Domain) -> str | None:
    """Return why no NIC can be detached from the running machine; None if one can."""
    if domain.state() is State.PAUSED:
        return f"'{domain.name}' is paused: its guest can't let go of a NIC"
    return None


def detach_nic(
    domain: Domain,
    mac: str,
    *,
    next_start: bool = False,
    timeout: float = DETACH_SECONDS,
    progress: ProgressCallback | None = None,
) -> AttachedNic:
    """Detach a NIC: from the running machine, when its guest lets go, and for its next start.

    Args:
        domain: The machine.
        mac: The NIC's MAC address.
        next_start: Whether a running machine keeps it until then.
        timeout: Seconds that the guest has to let go of it.
        progress: Told of the one phase, ``detach``.

    Returns:
        What it was.

    Raises:
        NotFoundError: There is no such NIC.
        WrongStateError: The guest refused to let go of it.
        WaitTimeoutError: The guest did not answer. It may still do so: detach it again then.
        UnsupportedError: The running machine can't lose it before its next start.
    """
    with changing(domain) as record:
        nic = find_nic(domain, mac)
        scope = hotplug.scope_of(domain, next_start=next_start)
        problem = why_not_detached_live(domain) if scope.now and nic.now else None
        if problem is not None:
            raise not_live(problem)
        spec = with_macs(spec_of(record), domain.uuid)
        rest = tuple(entry for entry in spec.nics if entry.mac != nic.mac)
        changed = recorded(with_drives(spec, nics=rest), record)

        def act() -> None:
            with Reporter(domain.name, progress).phase("detach") as phase:
                if scope.now:
                    phase.update("waiting for the guest to let go of it")
                    hotplug.detach_now(domain, "interface", nic.mac, timeout=timeout)
                hotplug.detach_next(domain, "interface", nic.mac)

        carry_out(domain, Pending(device=nic.mac, present=False, spec=changed), act)
    gone = next((entry for entry in spec.nics if entry.mac == nic.mac), None)
    if gone is not None and (gone.is_filtered or gone.fence is not None):
        group_members.refresh(domain.connection, gone.security_groups)
        nic_filters.forget_unused(domain.connection)
    return nic


def set_link(domain: Domain, mac: str, *, up: bool, next_start: bool = False) -> AttachedNic:
    """Plug a NIC's cable in or out, as the guest sees it.

    Args:
        domain: The machine.
        mac: The NIC's MAC address.
        up: Whether the cable is in.
        next_start: Whether a running machine goes on as it is until then.

    Raises:
        NotFoundError: There is no such NIC.
    """
    state = LinkState.UP if up else LinkState.DOWN
    with changing(domain) as record:
        nic = find_nic(domain, mac)
        scope = hotplug.scope_of(domain, next_start=next_start)
        changed = changed_spec(spec_of(record), domain, nic.mac, link=state)

        def act() -> None:
            for later in (False, True):
                node = nic_nodes(domain, later=later).get(nic.mac)
                if node is None or not (later or scope.now):
                    continue
                hotplug.update(
                    domain,
                    _with_link(node, state),
                    Scope(now=not later, later=later),
                    what=f"the NIC {nic.mac}",
                )

        down = f"{in_xpath(nic.mac)}/link[@state='down']"
        proof = f"not({down})" if up else f"boolean({down})"
        carry_out(domain, Pending.of_value(recorded(changed, record), proof), act)
    return find_nic(domain, mac)


def in_xpath(mac: str) -> str:
    return f"devices/interface[mac/@address='{mac}']"


def _with_link(node: etree._Element, state: LinkState) -> str:
    link = node.find("link")
    if link is None:
        link = etree.SubElement(node, "link")
    link.set("state", state.value)
    return etree.tostring(node, encoding="unicode")


def changed_spec(spec: VMSpec, domain: Domain, mac: str, **changes: object) -> VMSpec:
    known = with_macs(spec, domain.uuid)
    nics = tuple(nic.model_copy(update=changes) if nic.mac == mac else nic for nic in known.nics)
    return known.model_copy(update={"nics": nics})


def limit_nic(
    domain: Domain, mac: str, bandwidth: BandwidthSpec | None, *, next_start: bool = False
) -> AttachedNic:
    """Limit what a NIC may carry; all of its limits are replaced by these.

    Args:
        domain: The machine.
        mac: The NIC's MAC address.
        bandwidth: The limits; None takes them all away.
        next_start: Whether a running machine goes on as it is until then.

    Raises:
        NotFoundError: There is no such NIC.
        UnsupportedError: It is a user-mode NIC, or the host's kernel can't limit one.
    """
    with changing(domain) as record:
        nic = find_nic(domain, mac)
        if nic.type == "user" and bandwidth is not None:
            raise UnsupportedError(
                f"{nic.mac} of '{domain.name}' is a user-mode NIC, which can't be limited",
                hint="attach one that joins a network or a bridge",
            )
        scope = hotplug.scope_of(domain, next_start=next_start)
        rates = {} if bandwidth is None else bandwidth.model_dump(exclude_none=True)
        changed = changed_spec(spec_of(record), domain, nic.mac, bandwidth=bandwidth)

        def act() -> None:
            if nic.type != "user":
                tuning.set_bandwidth(domain, nic.mac, rates, Scope(now=scope.now and nic.now))

        given = [
            f"{in_xpath(nic.mac)}/bandwidth/{way}/@{name}='{value}'"
            for way, values in rates.items()
            for name, value in values.items()
        ]
        proof = " and ".join(given) or f"not({in_xpath(nic.mac)}/bandwidth)"
        carry_out(domain, Pending.of_value(recorded(changed, record), proof), act)
    return find_nic(domain, mac)


class Nics:
    """The NICs of one machine; one is called by its MAC address.

    Each change is made to the running machine and to the definition of its next start, and vmctl's
    record says the same afterwards.
    """

    def __init__(
        self, domain: Domain, *, facts: HostFacts, templates: Templates | None = None
    ) -> None:
        self._domain = domain
        self._facts = facts
        self._templates = templates

    def list(self) -> Sequence[AttachedNic]:
        """Return the NICs that it has now, or will have at its next start."""
        return list_nics(self._domain)

    def attach(
        self, nic: NicSpec, *, next_start: bool = False, progress: ProgressCallback | None = None
    ) -> AttachedNic:
        """Attach a NIC; see `vmctl.devices.nics.attach_nic` for what it raises."""
        return attach_nic(
            self._domain,
            nic,
            facts=self._facts,
            templates=self._templates,
            next_start=next_start,
            progress=progress,
        )

    def detach(
        self,
        mac: str,
        *,
        next_start: bool = False,
        timeout: float = DETACH_SECONDS,
        progress: ProgressCallback | None = None,
    ) -> AttachedNic:
        """Detach a NIC; see `vmctl.devices.nics.detach_nic` for what it raises."""
        return detach_nic(
            self._domain, mac, next_start=next_start, timeout=timeout, progress=progress
        )

    def set_link(self, mac: str, *, up: bool, next_start: bool = False) -> AttachedNic:
        """Plug its cable in or out, as the guest sees it."""
        return set_link(self._domain, mac, up=up, next_start=next_start)

    def set_bandwidth(
        self, mac: str, bandwidth: BandwidthSpec | None, *, next_start: bool = False
    ) -> AttachedNic:
        """Limit what it may carry; None takes all limits away."""
        return limit_nic(self._domain, mac, bandwidth, next_start=next_start)

    def set_filters(
        self,
        mac: str,
        *,
        antispoofing: bool | None = None,
        security_groups: Sequence[str] | None = None,
        next_start: bool = False,
    ) -> AttachedNic:
        """Say what it may send, and who may reach it; what is None stays as it is."""
        from vmctl.devices.nic_filtering import filter_nic  # noqa: PLC0415 - it needs this module

        return filter_nic(
            self._domain,
            mac,
            antispoofing=antispoofing,
            security_groups=security_groups,
            next_start=next_start,
            templates=self._templates,
        )
