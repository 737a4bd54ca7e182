"""The cloud-init seed: the files that the guest finds on its NoCloud drive.

Every file is lines of ``key: value``, where the value is JSON, which YAML reads as the same value.
So nothing that a user typed can change the structure, and a guest without a YAML reader can still
make sense of it.

Source: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vmctl.errors import UsageError
from vmctl.render.seed_network import link_files, network_config
from vmctl.render.templates import Templates
from vmctl.spec import CloudInitSpec, UserSpec, VMSpec
from vmctl.spec.names import hostname_of

__all__ = ["DEFAULT_USER", "SeedIdentity", "render_seed", "ssh_user"]

DEFAULT_USER = "vmctl"
"""The user that is made when the spec lists none."""

_APPENDED = ("users", "packages", "write_files", "bootcmd", "runcmd")
_OWN = ("hostname", "ssh_keys", "ssh_deletekeys")


@dataclass(frozen=True, kw_only=True)
class SeedIdentity:
    """Who the guest is, decided before it boots.

    Attributes:
        instance_id: cloud-init's name of this instance; another one makes it run again.
        host_key_private: The guest's SSH host key (ed25519), in OpenSSH's format.
        host_key_public: Its public half, one line.
        authorized_keys: Public keys that may log in as the first user.
    """

    instance_id: str
    host_key_private: str = field(repr=False)
    host_key_public: str
    authorized_keys: tuple[str, ...] = ()


def ssh_user(spec: VMSpec) -> str:
    """The user that vmctl logs in as: the spec's first, or ``vmctl``."""
    users = spec.cloud_init.users if spec.cloud_init is not None else ()
    return users[0].name if users else DEFAULT_USER


def render_seed(
    spec: VMSpec, identity: SeedIdentity, *, templates: Templates | None = None
) -> dict[str, bytes]:
    """Render the seed's files; the NICs must have their MAC addresses (see `with_macs`).

    Args:
        spec: What is wanted; defaults are filled in here, if they are not yet.
        identity: Who the guest is.
        templates: Templates to use instead of the default ones.

    Returns:
        File name to content: ``user-data``, ``meta-data``, ``network-config``, and ``vendor-data``
        where the spec has any.

    Raises:
        UsageError: The spec has no cloud_init, or a NIC without a MAC address.
    """
    resolved = spec.resolved()
    cloud_init = resolved.cloud_init
    if cloud_init is None:
        raise UsageError(
            f"{spec.name} has no cloud_init, and so no seed", hint="give it a cloud_init"
        )
    chosen = templates or Templates.default()
    hostname = cloud_init.hostname or hostname_of(spec.name)
    documents: dict[str, dict[str, Any]] = {
        "user-data": _user_data(resolved, cloud_init, identity, hostname),
        "meta-data": {"instance_id": identity.instance_id, "hostname": hostname},
        "network-config": {"network_config": network_config(resolved)},
    }
    if cloud_init.vendor_data:
        documents["vendor-data"] = {"vendor_data": cloud_init.vendor_data}
    return {name: chosen.seed(name, values).encode() for name, values in documents.items()}


def _user_data(
    spec: VMSpec, cloud_init: CloudInitSpec, identity: SeedIdentity, hostname: str
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "hostname": hostname,
        "fqdn": cloud_init.fqdn,
        "users": _users(cloud_init, identity),
        "ssh_pwauth": cloud_init.ssh_pwauth,
        "ssh_keys": {
            "ed25519_private": identity.host_key_private,
            "ed25519_public": identity.host_key_public,
        },
        "packages": list(cloud_init.packages),
        "package_upgrade": cloud_init.package_upgrade,
        "write_files": [
            *link_files(spec),
            *(
                file.model_dump(mode="json", exclude_defaults=True) | {"content": file.content}
                for file in cloud_init.write_files
            ),
        ],
        "bootcmd": list(cloud_init.bootcmd),
        "runcmd": list(cloud_init.runcmd),
        "timezone": cloud_init.timezone,
        "locale": cloud_init.locale,
        "ntp": _ntp(cloud_init),
    }
    if cloud_init.package_update is not None:
        values["package_update"] = cloud_init.package_update
    values["more"] = _merge(values, cloud_init)
    values.setdefault("package_update", bool(values["packages"]))
    return values


def _merge(values: dict[str, Any], cloud_init: CloudInitSpec) -> dict[str, Any]:
    """Merge the raw user data into ``values``, and return those of its keys that have no field."""
    more: dict[str, Any] = {}
    for key, value in (cloud_init.user_data or {}).items():
        if key in _APPENDED:
            values[key] += value if isinstance(value, list) else [value]
        elif key in _OWN or key in cloud_init.model_fields_set:
            continue  # vmctl's own, and what a field says, win
        elif key in CloudInitSpec.model_fields:
            values[key] = value
        else:
            more[key] = value
    return more


def _users(cloud_init: CloudInitSpec, identity: SeedIdentity) -> list[Any]:
    if not cloud_init.users:
        first = UserSpec(name=DEFAULT_USER, sudo=("ALL=(ALL) NOPASSWD:ALL",))
        return [_user(first, identity.authorized_keys)]
    return [
        _user(user, identity.authorized_keys if index == 0 else ())
        for index, user in enumerate(cloud_init.users)
    ]


def _user(user: UserSpec, keys: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": user.name}
    for name in ("gecos", "shell", "hashed_passwd"):
        value = getattr(user, name)
        if value is not None:
            found[name] = value
    if user.groups:
        found["groups"] = list(user.groups)
    if user.sudo:
        # The schema of cloud-init before 23 knows one rule only, as a string.
        found["sudo"] = user.sudo[0] if len(user.sudo) == 1 else list(user.sudo)
    unlocked = user.hashed_passwd is not None
    found["lock_passwd"] = not unlocked if user.lock_passwd is None else user.lock_passwd
    authorized = list(dict.fromkeys((*user.ssh_authorized_keys, *keys)))
    if authorized:
        found["ssh_authorized_keys"] = authorized
    return found


def _ntp(cloud_init: CloudInitSpec) -> dict[str, Any] | None:
    if cloud_init.ntp is None:
        return None
    return cloud_init.ntp.model_dump(mode="json", exclude_defaults=True) | {
        "enabled": cloud_init.ntp.enabled
    }
