"""The cloud-init seed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from vmctl.errors import UsageError
from vmctl.render import SeedIdentity, render_seed, ssh_user, with_macs
from vmctl.spec import VMSpec

UUID = "8d4a2b3c-1111-4222-8333-444455556666"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGolden me"
IDENTITY = SeedIdentity(
    instance_id="iid-1",
    host_key_private="PRIVATE\nKEY\n",
    host_key_public="ssh-ed25519 AAAA host",
    authorized_keys=("ssh-ed25519 BBBB vmctl", KEY),
)


def seed(nics: list[Any] | None = None, **cloud_init: Any) -> dict[str, Any]:
    spec = VMSpec(name="a", nics=nics or [], cloud_init=cloud_init)
    files = render_seed(with_macs(spec, UUID), IDENTITY)
    return {name: yaml.safe_load(content) for name, content in files.items()}


def test_private_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(IDENTITY)


def test_host_key_and_names() -> None:
    files = seed(hostname="web")
    assert files["meta-data"] == {"instance-id": "iid-1", "local-hostname": "web"}
    assert files["user-data"]["hostname"] == "web"
    assert files["user-data"]["ssh_deletekeys"] is True
    assert files["user-data"]["ssh_keys"] == {
        "ed25519_private": "PRIVATE\nKEY\n",
        "ed25519_public": "ssh-ed25519 AAAA host",
    }
    assert "vendor-data" not in files


def test_a_user_is_made_when_there_is_none() -> None:
    assert seed()["user-data"]["users"] == [
        {
            "name": "vmctl",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": True,
            "ssh_authorized_keys": ["ssh-ed25519 BBBB vmctl", KEY],
        }
    ]
    assert ssh_user(VMSpec(name="a", cloud_init={})) == "vmctl"
    assert ssh_user(VMSpec(name="a")) == "vmctl"


def test_the_first_user_gets_the_keys() -> None:
    users = seed(users=[{"name": "ada", "ssh_authorized_keys": [KEY]}, "bob"])["user-data"]["users"]
    assert users[0]["ssh_authorized_keys"] == [KEY, "ssh-ed25519 BBBB vmctl"]
    assert users[1] == {"name": "bob", "lock_passwd": True}
    assert ssh_user(VMSpec(name="a", cloud_init={"users": ["ada", "bob"]})) == "ada"


def test_password_hash_unlocks() -> None:
    user = {"name": "ada", "hashed_passwd": "$6$salt$0123456789"}
    assert seed(users=[user])["user-data"]["users"][0]["lock_passwd"] is False
    assert (
        seed(users=[user | {"lock_passwd": True}])["user-data"]["users"][0]["lock_passwd"] is True
    )


def test_raw_user_data_is_merged() -> None:
    data = seed(
        packages=["a"],
        timezone="UTC",
        runcmd=["x"],
        user_data={
            "packages": ["b"],
            "runcmd": [["y", "z"]],
            "users": [{"name": "c"}],
            "write_files": [{"path": "/d"}],
            "timezone": "Europe/Berlin",
            "locale": "C",
            "hostname": "evil",
            "ssh_keys": {},
            "ssh_deletekeys": False,
            "power_state": {"mode": "reboot"},
        },
    )["user-data"]
    assert data["packages"] == ["a", "b"]
    assert data["runcmd"] == ["x", ["y", "z"]]
    assert [user["name"] for user in data["users"]] == ["vmctl", "c"]
    assert data["write_files"] == [{"path": "/d"}]
    assert (data["timezone"], data["locale"], data["hostname"]) == ("UTC", "C", "a")
    assert data["ssh_keys"]["ed25519_private"]
    assert data["ssh_deletekeys"] is True
    assert data["power_state"] == {"mode": "reboot"}


def test_rendering_does_not_change_the_spec() -> None:
    spec = VMSpec(
        name="a", nics=[], cloud_init={"packages": ["a"], "user_data": {"packages": ["b"]}}
    )
    assert render_seed(spec, IDENTITY) == render_seed(spec, IDENTITY)


@pytest.mark.parametrize(
    ("cloud_init", "update"),
    [
        ({}, False),
        ({"packages": ["a"]}, True),
        ({"user_data": {"packages": ["a"]}}, True),
        ({"packages": ["a"], "package_update": False}, False),
        ({"user_data": {"package_update": True}}, True),
        ({"package_update": False, "user_data": {"package_update": True}}, False),
    ],
)
def test_packages_are_looked_up_when_there_are_any(
    cloud_init: dict[str, Any], update: bool
) -> None:
    assert seed(**cloud_init)["user-data"]["package_update"] is update


def test_network() -> None:
    nics = [
        {"user": True, "mac": "52:54:00:00:00:01"},
        {
            "network": "n",
            "mac": "52:54:00:00:00:02",
            "address": ["192.0.2.2/24", "2001:db8::2/64"],
            "gateway": ["192.0.2.1", "fe80::1"],
            "nameservers": "192.0.2.53",
        },
    ]
    config = seed(nics)["network-config"]
    assert config == {
        "version": 2,
        "ethernets": {
            "nic0": {
                "match": {"macaddress": "52:54:00:00:00:01"},
                "set-name": "nic0",
                "dhcp4": True,
                "dhcp-identifier": "mac",
            },
            "nic1": {
                "match": {"macaddress": "52:54:00:00:00:02"},
                "set-name": "nic1",
                "dhcp4": False,
                "addresses": ["192.0.2.2/24", "2001:db8::2/64"],
                "routes": [
                    {"to": "0.0.0.0/0", "via": "192.0.2.1"},
                    {"to": "::/0", "via": "fe80::1"},
                ],
                "nameservers": {"addresses": ["192.0.2.53"]},
            },
        },
    }


def test_network_of_ones_own() -> None:
    own = {"version": 2, "ethernets": {"all": {"dhcp4": True}}}
    assert seed([{"user": True}], network_config=own)["network-config"] == own


def test_what_can_not_be_rendered() -> None:
    with pytest.raises(UsageError, match="has no cloud_init"):
        render_seed(VMSpec(name="a"), IDENTITY)
    with pytest.raises(UsageError, match="has no MAC address yet"):
        render_seed(VMSpec(name="a", cloud_init={}), IDENTITY)
