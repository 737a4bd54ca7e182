"""Tenants: who may join which network, and use which image.

A tenant's machines use its own networks and images, and those that are for everybody: a network
that is `shared`, an image of nobody's. What is a tenant's, nobody else uses, machines without a
tenant included. A network that vmctl did not make is for machines without a tenant: nothing says
who else is on it. In user mode QEMU itself speaks for the guest, to the host's loopback as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from vmctl.errors import ConflictError, NotFoundError, SpecError, SpecProblem
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.network_owners import NetworkOwner, owner_of
from vmctl.render.filter_names import eui64

if TYPE_CHECKING:
    # Whoever starts a machine loads no specs.
    from vmctl.spec import NicSpec
    from vmctl.spec.fence import FenceSpec

__all__ = ["fenced", "refuse_foreign_image", "refuse_foreign_networks", "refuse_foreign_nics"]

# IPv6 has one part that is routed, and one that leads into IPv4 (RFC 6052). All of it, without a
# network's own subnet, would be a rule for each bit of that.
_EVERYWHERE = ("0.0.0.0/0", "2000::/3", "64:ff9b::/96")
_HINT = "use a network of the tenant's own, or one that is shared: `vmctl network list` shows them"


def refuse_foreign_nics(
    connection: Connection,
    name: str,
    tenant: str | None,
    nics: Iterable[NicSpec],
    *,
    named: Callable[[int], str] = "nics[{}]".format,
) -> None:
    """Refuse NICs that join what is not for the machine's tenant.

    Args:
        connection: The host.
        name: The machine.
        tenant: Whose it is, if anybody's.
        nics: Its NICs, or those of them that are in question.
        named: Returns what errors call a NIC, by its place; empty for a single one.

    Raises:
        SpecError: One does; each is named.
        NotFoundError: There is no such network.
    """
    problems = list(_problems(connection, tenant or "", nics, named))
    if problems:
        raise SpecError(
            f"'{name}' may not join a network that it names", problems=problems, hint=_HINT
        )


def _problems(
    connection: Connection, tenant: str, nics: Iterable[NicSpec], named: Callable[[int], str]
) -> Iterator[SpecProblem]:
    owners: dict[str, NetworkOwner] = {}
    for number, nic in enumerate(nics):
        path = ".".join(filter(None, (named(number), nic.type.value)))
        if nic.type == "network" and nic.network is not None:
            if nic.network not in owners:
                owners[nic.network] = owner_of(connection, nic.network)
            owner = owners[nic.network]
            why = _why_not(tenant, nic.network, owner)
            if why is None and tenant and owner.shared and nic.antispoofing is False:
                path = ".".join(filter(None, (named(number), "antispoofing")))
                why = (
                    f"on '{nic.network}', which is shared, it would get by lies what is for guests "
                    "of other tenants; leave it out"
                )
        elif tenant and nic.type == "bridge":
            why = f"the bridge {nic.bridge} is the host's own, and no tenant's"
        elif tenant and nic.type == "user":
            why = f"in user mode a guest of {tenant} would reach the host's own services"
        else:
            why = None
        if why is not None:
            yield SpecProblem(path, why)


def _why_not(tenant: str, name: str, owner: NetworkOwner) -> str | None:
    """Return why a tenant's machine may not join a network; None if it may."""
    if owner.shared or owner.tenant == tenant:
        return None
    who = f"the machine is {tenant}'s" if tenant else "the machine is no tenant's"
    if owner.tenant:
        return f"the network '{name}' is {owner.tenant}'s, and {who}"
    made = "of no tenant and not shared" if owner.made_by_vmctl else "none that vmctl made"
    return f"the network '{name}' is {made}, and {who}"


def refuse_foreign_networks(
    connection: Connection, name: str, tenant: str, networks: Iterable[str]
) -> None:
    """Refuse to let a machine run on networks that became another's since it joined them.

    Raises:
        ConflictError: One did.
    """
    for network in networks:
        try:
            why = _why_not(tenant, network, owner_of(connection, network))
        except NotFoundError:
            # That it is gone is for who starts it to say.
            continue
        if why is not None:
            raise ConflictError(
                f"'{name}' may not run on its network",
                details=f"{why}; it is not the network that the machine joined",
                hint="detach the NIC and attach it to a network of the tenant's own: "
                f"`vmctl nic detach {name} MAC`",
            )


def fenced(connection: Connection, tenant: str | None, nics: Iterable[NicSpec]) -> list[NicSpec]:
    """Return NICs with what a tenant's guest is kept from on their networks; without one, as given.

    Raises:
        NotFoundError: There is no such network.
    """
    if not tenant:
        return list(nics)
    return [
        nic
        if nic.network is None
        else nic.model_copy(update={"fence": _fence(owner_of(connection, nic.network), nic)})
        for nic in nics
    ]


def _fence(owner: NetworkOwner, nic: NicSpec) -> FenceSpec:
    from vmctl.spec.fence import FenceSpec  # noqa: PLC0415 - see above

    gateways = [str(gateway.ip) for gateway in owner.gateways]
    if owner.mac:
        # The bridge makes itself an address on the link, at which the host answers as well.
        gateways.append(eui64(owner.mac))
    return FenceSpec(
        gateways=tuple(gateways),
        subnets=tuple(str(gateway.network) for gateway in owner.gateways),
        neighbours=not (owner.isolates_guests or nic.isolated),
        reach=owner.reach,
        # What its host would not route, it does for whom libvirt has a filter of connections.
        keep_from=(*owner.keep_from, *(_EVERYWHERE if owner.closed else ())),
    )


def refuse_foreign_image(reference: str, owner: str, tenant: str) -> None:
    """Refuse an image that is another tenant's.

    Raises:
        NotFoundError: It is: whoever may not use it is not told that it is there.
    """
    if owner and owner != tenant:
        raise NotFoundError(
            f"there is no image '{reference[:80]}' for {tenant or 'a machine without a tenant'}",
            hint="`vmctl image list` shows whose images there are",
        )
