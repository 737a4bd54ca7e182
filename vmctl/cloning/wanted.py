"""What a clone's spec says: that of its source, without what two machines can't both have."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmctl.errors import UnsupportedError, UsageError
from vmctl.intent.assignments import assign
from vmctl.render.identity import with_macs
from vmctl.spec import VMSpec

__all__ = ["Wanted", "wanted_spec"]

_CHANGEABLE = re.compile(
    r"nics(\[\d+\]|\.[0-9a-fA-F:]+)\.(address|gateway|nameservers|dhcp|mac|reserve|forwards)"
    r"|graphics\[\d+\]\.port|cloud_init\.(hostname|fqdn|network_config)"
)
_STATIC = ("address", "gateway")
_NETWORK_CONFIG = "cloud_init.network_config"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a clone shall be.

    Attributes:
        spec: Its spec, resolved, each NIC with its MAC address.
        redacted: Paths of what its source's record lacks, as secret.
        macs: Its MAC addresses by those of its source.
        notes: One sentence for each thing that is not as it is in its source.
    """

    spec: VMSpec
    redacted: tuple[str, ...]
    macs: Mapping[str, str]
    notes: tuple[str, ...]

    def recorded(self) -> dict[str, Any]:
        """Return what the clone's record says of its spec."""
        written = self.spec.without_secrets()
        redacted = dict.fromkeys((*self.redacted, *written.get("redacted", ())))
        return written | ({"redacted": list(redacted)} if redacted else {})


def wanted_spec(
    recorded: Mapping[str, Any], *, name: str, uuid: str, values: Mapping[str, Any]
) -> Wanted:
    """Work out a clone's spec.

    Args:
        recorded: The spec in the source's record.
        name: The clone's name.
        uuid: Its UUID, from which its MAC addresses follow.
        values: What it shall have in the place of what only one machine can have, by path.

    Raises:
        UnsupportedError: The source has an address of its own, and the clone is given none.
        UsageError: A value is none that a clone can be given, or the source's own.
        SpecError: There can be no such machine.
    """
    _refuse_unchangeable(values)
    data: dict[str, Any] = copy.deepcopy(dict(recorded))
    redacted = tuple(data.pop("redacted", ()))
    before = copy.deepcopy(data)
    for path, value in values.items():
        assign(data, path, value)
    _refuse_shared_network(before, redacted, values)
    given = {path for path, value in values.items() if value is not None}
    _leave_addresses_out(before, data)
    notes = [*_without_names(data, given), *_without_ports(before, data)]
    data |= {"name": name, "autostart": False}
    spec = with_macs(VMSpec.model_validate(data), uuid)
    old = [str(nic.get("mac") or "").lower() for nic in before.get("nics") or ()]
    macs = {mac: nic.mac or "" for mac, nic in zip(old, spec.nics, strict=False) if mac}
    _refuse_own_macs(values, set(macs))
    gone = {_NETWORK_CONFIG} if _NETWORK_CONFIG in values else set()
    return Wanted(
        spec=spec,
        redacted=tuple(path for path in redacted if path not in gone),
        macs=macs,
        notes=tuple(notes),
    )


def _refuse_unchangeable(values: Mapping[str, Any]) -> None:
    for path in values:
        if _CHANGEABLE.fullmatch(path) is None:
            raise UsageError(
                f"{path[:80]!r} is not what a clone can be given",
                hint="nics[0].address, gateway, nameservers, dhcp, mac, reserve and forwards, "
                "graphics[0].port, and cloud_init.hostname, fqdn and network_config can; "
                "for all else use `vmctl set` afterwards",
            )


def _refuse_own_macs(values: Mapping[str, Any], macs: set[str]) -> None:
    for path, value in values.items():
        mac = str(value).lower().replace("-", ":")
        if path.endswith(".mac") and mac in macs:
            raise UsageError(
                f"{mac} is a MAC address of its source", hint="leave it out, or give another"
            )


def _refuse_shared_network(
    before: dict[str, Any], redacted: tuple[str, ...], values: Mapping[str, Any]
) -> None:
    """Refuse a clone whose network configuration vmctl does not know: it may have addresses."""
    cloud_init = before.get("cloud_init") or {}
    known = _NETWORK_CONFIG not in redacted and not cloud_init.get("network_config")
    if not known and _NETWORK_CONFIG not in values:
        raise UnsupportedError(
            "its source was given a network configuration of its own, which vmctl does not keep",
            hint="give the clone one as cloud_init.network_config; null makes one from its NICs",
        )


def _without_names(data: dict[str, Any], given: set[str]) -> list[str]:
    """Take the source's names on the network out; a clone's follow from its own name."""
    cloud_init = data.get("cloud_init") or {}
    gone = [
        key
        for key in ("hostname", "fqdn")
        if f"cloud_init.{key}" not in given and cloud_init.pop(key, None)
    ]
    return ["it has no fully qualified host name"] if "fqdn" in gone else []


def _leave_addresses_out(before: dict[str, Any], data: dict[str, Any]) -> None:
    """Take the source's addresses out: MAC addresses silently, others only for those given."""
    for number, (old, new) in enumerate(
        zip(before.get("nics") or (), data.get("nics") or (), strict=False)
    ):
        if new.get("mac") == old.get("mac"):
            new["mac"] = None
        _leave_reserved_out(number, old, new)
        own = {address.split("/")[0] for address in _listed(old.get("address"))}
        kept = own & {address.split("/")[0] for address in _listed(new.get("address"))}
        if kept:
            raise UnsupportedError(
                f"nics[{number}] of its source has the address {sorted(kept)[0]}, "
                "which a clone can't have too",
                hint=f"give it another, nics[{number}].address=192.0.2.11/24 say; or DHCP: "
                f"nics[{number}].address=null",
            )
        if own and not new.get("address"):
            for key in (*_STATIC, "nameservers"):
                new.pop(key, None)
            if new.get("dhcp") is False:
                new["dhcp"] = None


def _leave_reserved_out(number: int, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Let one be reserved for the clone that is not its source's."""
    own, wanted = old.get("reserve"), new.get("reserve")
    if not isinstance(own, str | list):
        return
    if wanted == own:
        new["reserve"] = True
    elif isinstance(wanted, str | list) and (both := set(_listed(own)) & set(_listed(wanted))):
        raise UsageError(
            f"{sorted(both)[0]} is reserved for nics[{number}] of its source",
            hint="leave it out, or give another",
        )


def _without_ports(before: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """Take the host's ports out that lead to the source."""
    notes = []
    for number, (old, new) in enumerate(
        zip(before.get("nics") or (), data.get("nics") or (), strict=False)
    ):
        if old.get("forwards") and new.get("forwards") == old.get("forwards"):
            new.pop("forwards")
            notes.append(
                f"ports of the host that lead into its source by nics[{number}] don't lead into it"
            )
    for old, new in zip(before.get("graphics") or (), data.get("graphics") or (), strict=False):
        if old.get("port") and new.get("port") == old.get("port"):
            new.pop("port")
    return notes


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
