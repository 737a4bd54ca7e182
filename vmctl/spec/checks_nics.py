"""What is wrong with the NICs of a machine together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmctl.errors import SpecProblem
from vmctl.spec.platforms import Platform

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = ["check_nics"]

_MOST_NICS = 32


def check_nics(spec: VMSpec, platform: Platform) -> Iterator[SpecProblem]:
    """Find what is wrong with NICs and their forwarded ports."""
    if len(spec.nics) > _MOST_NICS:
        yield SpecProblem(
            "nics", f"a machine takes {_MOST_NICS} NICs, this spec has {len(spec.nics)}"
        )
    if spec.nics and not platform.pci:
        yield SpecProblem(
            "nics[0]", f"libvirt can't give machine type {spec.machine} a NIC; write nics: []"
        )
    yield from _check_duplicates(spec)
    yield from _check_forwards(spec)
    if spec.cloud_init is None:
        for index, nic in enumerate(spec.nics):
            if nic.address:
                yield SpecProblem(
                    f"nics[{index}].address",
                    "a static address is set up by cloud-init, and this spec has no cloud_init",
                )


def _check_duplicates(spec: VMSpec) -> Iterator[SpecProblem]:
    macs: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for index, nic in enumerate(spec.nics):
        if nic.mac is not None and nic.mac in macs:
            yield SpecProblem(f"nics[{index}].mac", f"{nic.mac} is nics[{macs[nic.mac]}]'s already")
        if nic.mac is not None:
            macs[nic.mac] = index
        given = [("address", text.partition("/")[0]) for text in nic.address]
        given += [("reserve", text) for text in nic.reserved]
        for field, address in given:
            if address in addresses:
                yield SpecProblem(
                    f"nics[{index}].{field}", f"{address} is nics[{addresses[address]}]'s already"
                )
            addresses[address] = index


def _check_forwards(spec: VMSpec) -> Iterator[SpecProblem]:
    seen: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for index, nic in enumerate(spec.nics):
        for number, forward in enumerate(nic.forwards):
            path = f"nics[{index}].forwards[{number}]"
            others = seen.setdefault((forward.protocol, forward.host), [])
            for address, other in others:
                if address == forward.address or {address, forward.address} & {"0.0.0.0", "::"}:  # noqa: S104
                    yield SpecProblem(
                        f"{path}.host",
                        f"{forward.protocol} port {forward.host} is {other}'s already",
                    )
                    break
            others.append((forward.address, path))
