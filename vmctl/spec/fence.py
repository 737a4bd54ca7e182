"""What a tenant's guest is kept from on its network, worked out of that network's own facts."""

from __future__ import annotations

from typing import Annotated

from vmctl.spec.addresses import Cidr, IpAddress
from vmctl.spec.base import SpecModel
from vmctl.spec.text import TextOrList

__all__ = ["FenceSpec"]


class FenceSpec(SpecModel):
    """Where a guest may not go.

    It reaches the world, and on its own network DHCP, DNS and, if it may, its neighbours; it
    reaches no other address of its host, and no private address. What others began, it answers.
    """

    gateways: Annotated[tuple[IpAddress, ...], TextOrList] = ()
    """The host's addresses on its network, of which it gets DHCP, DNS and the answer to a ping."""
    subnets: Annotated[tuple[Cidr, ...], TextOrList] = ()
    """Its network's own subnets."""
    neighbours: bool = False
    """Whether it reaches the other guests in them."""
    reach: Annotated[tuple[Cidr, ...], TextOrList] = ()
    """Private subnets that it reaches all the same."""
    keep_from: Annotated[tuple[Cidr, ...], TextOrList] = ()
    """Subnets that it does not reach, beside the private ones."""
