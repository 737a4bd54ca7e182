"""Every way by which a client reaches a guest, on every kind of network there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import vmctl
from vmctl.guest.netns import connect_in
from vmctl.hypervisor import private

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]


def test_by_lease_on_a_nat_network(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec(nics=[{"network": "default"}]))
    info = vm.info()
    leased = info.sources["lease"]
    assert leased.startswith("192.168.122.")
    assert leased in vm.run("/sbin/ip -4 addr", check=True).stdout
    assert info.addresses[0] == leased
    vm.delete()


def test_by_a_static_address(host: vmctl.Host, make_spec: SpecMaker) -> None:
    nic = {
        "network": "default",
        "address": "192.168.122.200/24",
        "gateway": "192.168.122.1",
        "nameservers": ["192.168.122.1"],
    }
    vm = host.launch(make_spec(nics=[nic]))
    assert "192.168.122.200/24" in vm.run("/sbin/ip -4 addr", check=True).stdout
    assert "default via 192.168.122.1" in vm.run("/sbin/ip route", check=True).stdout
    assert vm.info().addresses[0] == "192.168.122.200"
    vm.delete()


def test_forwarded_ports(
    host: vmctl.Host, private_host: private.PrivateHost, make_spec: SpecMaker
) -> None:
    forwards = [{"host": 18022, "guest": 22}]
    vm = host.launch(make_spec(nics=[{"user": True, "forwards": forwards}]))
    namespace = private_host.network_namespace
    assert namespace is not None

    def banner() -> bytes:
        with connect_in(namespace, "127.0.0.1", 18022, 10) as sock:
            return bytes(sock.recv(8))

    assert banner() == b"SSH-2.0-"
    # QEMU forgets them at every start; vmctl does not.
    vm.restart()
    vm.wait()
    assert banner() == b"SSH-2.0-"
    vm.snapshots.create("s")
    vm.snapshots.revert("s")
    assert vm.run("true").exit_status == 0
    assert banner() == b"SSH-2.0-"
    vm.delete()


def test_a_changed_host_key_is_refused(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec())
    vm.run(
        "sudo -n rm /etc/ssh/ssh_host_ed25519_key* && "
        "sudo -n ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
        check=True,
    )
    host.sessions.drop(vm.uuid)
    vm.restart()
    with pytest.raises(vmctl.HostKeyMismatchError, match="has not the host key"):
        _until_answered(vm)
    vm.delete()


def _until_answered(vm: vmctl.VM) -> None:
    for _attempt in range(10):
        try:
            vm.ssh()
        except vmctl.HostKeyMismatchError:
            raise
        except vmctl.GuestUnreachableError:
            # It still boots; the next attempt waits for it again, with a deadline of its own.
            continue
        return


def test_the_legacy_profile(host: vmctl.Host, make_spec: SpecMaker) -> None:
    vm = host.launch(make_spec(profile="legacy", memory="256MiB", cloud_init={}))
    assert vm.info().machine.startswith("pc-i440fx")
    assert vm.run("ls /sys/block").stdout.split().count("sda") == 1
    driver = vm.run("readlink /sys/class/net/nic0/device/driver").stdout
    assert driver.strip().endswith("/e1000")
    vm.stop()
    vm.delete()


@pytest.fixture
def shared_network_host(client_home: object) -> Iterator[private.PrivateHost]:
    """A private host whose network is the machine's own."""
    host = private.start("tnet", network="host", tether=True)
    try:
        yield host
    finally:
        private.stop(host.name, force=True)


def test_a_private_host_on_the_machines_own_network(
    shared_network_host: private.PrivateHost, make_spec: SpecMaker
) -> None:
    assert shared_network_host.network_namespace is None
    with vmctl.connect("private:tnet") as other:
        vm = other.launch(make_spec())
        assert vm.run(["echo", "hello"], check=True).stdout == "hello\n"
        vm.delete()
