"""The cloud-init seed of a clone: another identity for a guest that was provisioned already.

What the source was told at its own first boot is on the disk, and is not done again: a command may
have made a file system, or a password may have been changed since. Only who the guest is, and how
it is reached, is told anew.
"""

from __future__ import annotations

from typing import Any

from vmctl.errors import UsageError
from vmctl.render.identity import machine_id_of
from vmctl.render.seed import SeedIdentity
from vmctl.render.seed_network import link_files, network_config
from vmctl.render.templates import Templates
from vmctl.spec import VMSpec
from vmctl.spec.names import hostname_of

__all__ = ["render_clone_seed"]

# A guest with systemd has the machine-id by now (see `first_boot`). For one that has not, what was
# made of its old one, leases and identifiers, is made anew.
_TAKE_UP = """id={id}
if [ "$(cat /etc/machine-id)" != "$id" ]; then
    echo "$id" >/etc/machine-id
    for unit in systemd-journald systemd-networkd NetworkManager; do
        systemctl try-restart "$unit.service"
    done
fi
if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
    echo "$id" >/var/lib/dbus/machine-id
fi
:"""


def render_clone_seed(
    spec: VMSpec,
    identity: SeedIdentity,
    *,
    user: str,
    uuid: str,
    templates: Templates | None = None,
) -> dict[str, bytes]:
    """Render the seed's files; the NICs must have their MAC addresses (see `with_macs`).

    Args:
        spec: The clone's spec.
        identity: Who the guest is.
        user: Whom vmctl logs in as; the guest has that user already.
        uuid: The machine's UUID.
        templates: Templates to use instead of the default ones.

    Returns:
        File name to content.

    Raises:
        UsageError: The spec has no cloud_init, or a NIC without a MAC address.
    """
    resolved = spec.resolved()
    cloud_init = resolved.cloud_init
    if cloud_init is None:
        raise UsageError(
            f"{spec.name} has no cloud_init, and so no seed", hint="give it a cloud_init"
        )
    hostname = cloud_init.hostname or hostname_of(spec.name)
    user_data: dict[str, Any] = {
        "hostname": hostname,
        "fqdn": cloud_init.fqdn,
        # Without `lock_passwd` the password that it has would be locked.
        "users": [
            {
                "name": user,
                "lock_passwd": False,
                "ssh_authorized_keys": list(identity.authorized_keys),
            }
        ],
        "ssh_pwauth": None,
        "ssh_keys": {
            "ed25519_private": identity.host_key_private,
            "ed25519_public": identity.host_key_public,
        },
        "packages": [],
        "package_update": False,
        "package_upgrade": False,
        "write_files": [
            *link_files(resolved),
            {
                "path": "/etc/machine-id",
                "content": f"{machine_id_of(uuid)}\n",
                "permissions": "0444",
            },
        ],
        "bootcmd": [["sh", "-c", _TAKE_UP.format(id=machine_id_of(uuid))]],
        "runcmd": [],
        "timezone": cloud_init.timezone,
        "locale": cloud_init.locale,
        "ntp": None,
        # cloud-init would write them anew for what it takes for a new machine.
        "more": {"apt": {"preserve_sources_list": True}},
    }
    documents: dict[str, dict[str, Any]] = {
        "user-data": user_data,
        "meta-data": {"instance_id": identity.instance_id, "hostname": hostname},
        "network-config": {"network_config": network_config(resolved)},
    }
    chosen = templates or Templates.default()
    return {name: chosen.seed(name, values).encode() for name, values in documents.items()}
