"""Attacks from inside guests: each succeeds without the protection, and fails with it.

Two guests of one network, and the host. What the attacker sends bears marks, and behind all of it
comes one frame that anybody may send: when that is there, what was not stopped was there before.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import vmctl
from vmctl.hypervisor import private
from vmctl.render.filter_names import eui64

from . import frames
from .frames import NOBODY, Listener, Station

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
]

_DEVICE = "nic0"
_V6 = "fd00:66::"


@dataclass(frozen=True)
class Ground:
    """Where it happens."""

    network: str
    attacker: vmctl.VM
    victim: vmctl.VM
    evil: Station
    good: Station
    host: Station


@pytest.fixture(scope="module")
def ground(
    host: vmctl.Host, micro_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """Two guests that have nothing yet that holds them back."""
    network = f"a{uuid.uuid4().hex[:8]}"
    host.networks.create(
        vmctl.NetworkSpec.model_validate(
            {"name": network, "mode": "isolated", "ipv4": "10.66.0.0/24", "ipv6": f"{_V6}/64"}
        )
    )

    def launch(_number: int) -> vmctl.VM:
        spec = {
            "name": f"a{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "128MiB",
            "nics": [{"network": network}],
        }
        return host.launch(vmctl.VMSpec.model_validate(spec), wait=False)

    vms = [launch(number) for number in range(2)]
    try:
        for vm in vms:
            vm.wait()
        program = frames.build(tmp_path_factory.mktemp("frames"))
        for vm in vms:
            vm.copy_to(program, frames.PROGRAM)
            # Else its NIC keeps from it what is of a VLAN.
            # And it believes at once what it is told of its neighbours.
            ready = (
                f"chmod 755 {frames.PROGRAM} && sudo -n sh -c 'ip link set {_DEVICE} promisc on && "
                f"echo 0 >/proc/sys/net/ipv4/neigh/{_DEVICE}/locktime'"
            )
            vm.run(ready, check=True)
        leases = {lease.mac: lease.address for lease in host.networks.leases(network)}
        evil, good = (_station(leases, vm.nics.list()[0].mac) for vm in vms)
        mac = (
            vms[0]
            .run("sudo -n ping -c1 -w5 10.66.0.1 >/dev/null; grep '^10.66.0.1 ' /proc/net/arp")
            .stdout.split()[3]
        )
        gate = Station(mac, "10.66.0.1", f"{_V6}1", eui64(mac))
        yield Ground(network, vms[0], vms[1], evil, good, gate)
    finally:
        for vm in vms:
            vm.delete()
        host.networks.delete(network)


def _station(leases: dict[str, str], mac: str) -> Station:
    return Station(mac, leases[mac], eui64(mac, f"{_V6}/64"), eui64(mac))


def attacks(ground: Ground) -> dict[str, tuple[bytes, bytes]]:
    """Return the frames, each with the mark that it bears."""
    evil, good, gate = ground.evil, ground.good, ground.host
    to, own = good.mac, evil.mac
    marks = iter([frames.token() for _ in range(32)])
    made: dict[str, tuple[bytes, bytes]] = {}

    def add(name: str, kind: int, payload: bytes, mark: bytes, source: str = own) -> None:
        made[name] = (frames.ethernet(source, to, kind, payload), mark)

    mark = next(marks)
    other = "52:54:00:66:66:66"
    add("mac", 0x0800, frames.udp4(evil.ipv4, good.ipv4, (999, 999), mark), mark, other)
    mark = next(marks)
    add("arp-reply", 0x0806, frames.arp(2, (own, gate.ipv4), (to, good.ipv4), mark), mark)
    mark = next(marks)
    add("arp-request", 0x0806, frames.arp(1, (own, gate.ipv4), (to, good.ipv4), mark), mark)
    mark = next(marks)
    add("arp-mac", 0x0806, frames.arp(2, (other, evil.ipv4), (to, good.ipv4), mark), mark)
    mark = next(marks)
    add("arp-probe", 0x0806, frames.arp(1, (own, NOBODY), (to, good.ipv4), mark), mark)
    mark = next(marks)
    add("ipv4", 0x0800, frames.udp4(gate.ipv4, good.ipv4, (999, 999), mark), mark)
    mark = next(marks)
    add("ipv4-nobody", 0x0800, frames.udp4(NOBODY, good.ipv4, (999, 999), mark), mark)
    mark = next(marks)
    add("dhcp-server", 0x0800, frames.udp4(evil.ipv4, good.ipv4, (67, 68), mark), mark)
    mark = next(marks)
    add("dhcp-server-port", 0x0800, frames.udp4(evil.ipv4, good.ipv4, (999, 68), mark), mark)
    mark = next(marks)
    add("ipv6", 0x86DD, frames.udp6(gate.ipv6, good.ipv6, (999, 999), mark), mark)
    mark = next(marks)
    add("ipv6-link-local", 0x86DD, frames.udp6(gate.link_local, good.ipv6, (9, 9), mark), mark)
    mark = next(marks)
    add("ipv6-nobody", 0x86DD, frames.udp6("::", good.ipv6, (999, 999), mark), mark)
    mark = next(marks)
    add("dhcpv6-server", 0x86DD, frames.udp6(evil.ipv6, good.ipv6, (547, 546), mark), mark)
    mark = next(marks)
    advertisement = frames.router_advertisement("fd00:bad:1::/64", own, mark)
    add("router", 0x86DD, frames.icmpv6(evil.link_local, good.link_local, 134, advertisement), mark)
    mark = next(marks)
    advertisement = frames.router_advertisement("fd00:bad:2::/64", own, mark)
    # Behind an extension header that means nothing (RFC 7113).
    hidden = struct.pack("!BBBB4x", 58, 0, 1, 4)
    payload = frames.icmpv6(evil.link_local, good.link_local, 134, advertisement, behind=hidden)
    add("router-hidden", 0x86DD, payload, mark)
    mark = next(marks)
    said = bytes(4) + bytes(32) + b"\xfd\x03" + mark.ljust(22, b"\0")
    add("redirect", 0x86DD, frames.icmpv6(evil.link_local, good.ipv6, 137, said), mark)
    mark = next(marks)
    target = ipaddress.IPv6Address(gate.ipv6).packed
    said = b"\x20\0\0\0" + target + b"\x02\x01" + frames.mac_bytes(own)
    said += b"\xfd\x03" + mark.ljust(22, b"\0")
    add("neighbour", 0x86DD, frames.icmpv6(gate.ipv6, good.ipv6, 136, said), mark)
    mark = next(marks)
    inner = struct.pack("!HH", 7, 0x0800) + frames.udp4(evil.ipv4, good.ipv4, (9, 9), mark)
    add("vlan", 0x8100, inner, mark)
    mark = next(marks)
    add("vlan-of-a-provider", 0x88A8, inner[:-16] + mark, mark)
    mark = next(marks)
    add("spanning-tree", 38, b"\x42\x42\x03" + bytes(19) + mark, mark)
    mark = next(marks)
    add("another-protocol", 0x88B5, mark, mark)
    return made


def reaches_each_other(ground: Ground) -> None:
    """See that everybody may do what everybody may do."""
    sides = ((ground.attacker, ground.good), (ground.victim, ground.evil))
    for vm, other in sides:
        for station in (other, ground.host):
            pings = f"ping -c1 -w10 {station.ipv4} && ping -6 -c1 -w10 {station.ipv6}"
            vm.run(f"sudo -n sh -c '{pings}'", check=True, timeout=60)


def strike(ground: Ground) -> set[str]:
    """Send all of it, and return what came through."""
    made = attacks(ground)
    last = frames.token()
    payload = frames.udp4(ground.evil.ipv4, ground.good.ipv4, (999, 999), last)
    harmless = frames.ethernet(ground.evil.mac, ground.good.mac, 0x0800, payload)
    marks = [mark for _frame, mark in made.values()]
    listener = Listener(ground.victim, _DEVICE, [*marks, last])
    frames.send(ground.attacker, _DEVICE, [frame for frame, _mark in made.values()])
    # By itself: of frames that are sent at once, one protocol's may overtake another's.
    frames.send(ground.attacker, _DEVICE, [harmless])
    heard = listener.heard()
    assert last in heard, "what anybody may send did not come through"
    return {name for name, (_frame, mark) in made.items() if mark in heard}


def gate_of(ground: Ground) -> str:
    """Return who the victim takes for the host; it forgets it."""
    # Its answers over the network would go to that one; and in time, the kernel finds out.
    command = f"grep '^10.66.0.1 ' /proc/net/arp; ip neigh flush dev {_DEVICE}"
    return ground.victim.run(command, check=True, via="agent").stdout.split()[3]


def rogue_prefixes(ground: Ground) -> int:
    """Return how many addresses the victim made itself from what the attacker advertised."""
    made = [eui64(ground.good.mac, f"fd00:bad:{number}::/64") for number in (1, 2)]
    listed = ground.victim.run("cat /proc/net/if_inet6", check=True).stdout
    found = [address for address in made if ipaddress.IPv6Address(address).packed.hex() in listed]
    forget = "; ".join(f"ip -6 addr del {address}/64 dev {_DEVICE}" for address in found)
    ground.victim.run(f"sudo -n sh -c '{forget or ':'}'", check=True)
    return len(found)


def test_spoofing(host: vmctl.Host, ground: Ground) -> None:
    mac = ground.evil.mac
    reaches_each_other(ground)
    assert strike(ground) == attacks(ground).keys()
    assert (gate_of(ground), rogue_prefixes(ground)) == (mac, 2)
    assert ground.attacker.nics.set_filters(mac, antispoofing=True).filter
    reaches_each_other(ground)
    assert strike(ground) == set()
    assert (gate_of(ground), rogue_prefixes(ground)) == (ground.host.mac, 0)
    reaches_each_other(ground)


def claims(ground: Ground, who: Station) -> bytes:
    """Return what says to the host, from one's own address, that the victim's is one's own too."""
    said = b"\x20\0\0\0" + ipaddress.IPv6Address(ground.good.ipv6).packed
    said += b"\x02\x01" + frames.mac_bytes(who.mac)
    payload = frames.icmpv6(who.ipv6, ground.host.ipv6, 136, said)
    return frames.ethernet(who.mac, ground.host.mac, 0x86DD, payload)


def test_what_is_for_a_neighbour_is_not_overheard(
    ground: Ground, private_host: private.PrivateHost
) -> None:
    """libvirt can't see what a neighbour's message is about: but who lies gets nothing by it."""
    mac = ground.evil.mac
    enter = ["nsenter", f"--net={private_host.network_namespace}"]
    code = (
        "import socket, sys; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); "
        "s.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 9))"
    )

    def host_says(to: str, mark: bytes) -> None:
        command = [*enter, sys.executable, "-c", code, to, mark.hex()]
        subprocess.run(command, check=True)

    def host_knows_the_victim() -> None:
        found = f"sudo -n ping -6 -c1 -w10 {ground.host.ipv6}"
        ground.victim.run(found, check=True, timeout=60)

    def overhears() -> bool:
        mark, last = frames.token(), frames.token()
        host_knows_the_victim()
        listener = Listener(ground.attacker, _DEVICE, [mark, last])
        frames.send(ground.attacker, _DEVICE, [claims(ground, ground.evil)])
        host_says(ground.good.ipv6, mark)
        host_says(ground.evil.ipv6, last)
        heard = listener.heard()
        assert last in heard
        # The owner says whose it is, and the host believes it again.
        frames.send(ground.victim, _DEVICE, [claims(ground, ground.good)])
        host_knows_the_victim()
        return mark in heard

    ground.attacker.nics.set_filters(mac, security_groups=[], antispoofing=False)
    assert overhears()
    ground.attacker.nics.set_filters(mac, antispoofing=True)
    assert not overhears()


# -- security groups ------------------------------------------------------------------------------


def group(host: vmctl.Host, name: str, *rules: dict[str, object]) -> vmctl.SecurityGroupInfo:
    spec = vmctl.SecurityGroupSpec.model_validate({"name": name, "rules": list(rules)})
    return host.security_groups.apply(spec)


def serve(vm: vmctl.VM, *ports: int) -> None:
    """Let a guest say its name on some ports, over both versions of IP."""
    vm.run("mkdir -p /tmp/www && hostname >/tmp/www/name", check=True)
    for port in ports:
        # It goes on by itself as soon as it listens.
        vm.run(f"sudo -n httpd -p {port} -h /tmp/www", check=True)


def asks(vm: vmctl.VM, address: str, port: int, *, patience: int = 20) -> str:
    """Return what is said on a port; empty where nobody lets it in, for so many seconds."""
    ask = r"printf 'GET /name HTTP/1.0\r\n\r\n' >&3; tail -n1 <&3"
    words = f"exec 3<>/dev/tcp/{address}/{port}; {ask}"
    command = ["timeout", str(patience), "bash", "-c", words]
    return vm.run(command, timeout=60).stdout.strip()


def lets_in(ground: Ground, port: int) -> bool:
    """See that the victim answers the attacker on a port, over IPv4 and IPv6."""
    good, name = ground.good, ground.victim.name
    return [asks(ground.attacker, at, port) for at in (good.ipv4, good.ipv6)] == [name, name]


def keeps_out(ground: Ground, port: int) -> bool:
    """See that it doesn't, over either."""
    good = ground.good
    return not any(asks(ground.attacker, at, port, patience=2) for at in (good.ipv4, good.ipv6))


def test_services_of_a_neighbour(host: vmctl.Host, ground: Ground) -> None:
    """What a group lets in comes in, in both families, and nothing else; live."""
    mac = ground.good.mac
    serve(ground.victim, 80, 81)
    assert lets_in(ground, 80)
    assert lets_in(ground, 81)
    group(host, "friends")
    group(host, "web", {"direction": "ingress", "protocol": "tcp", "ports": 80})
    try:
        ground.victim.nics.set_filters(mac, security_groups=["web"])
        assert host.security_groups.info("web").machines == (ground.victim.name,)
        assert lets_in(ground, 80)
        assert keeps_out(ground, 81)
        # What the guest begins goes out, and is answered; the host reaches it.
        serve(ground.attacker, 82)
        other = ground.attacker.name
        assert asks(ground.victim, ground.evil.ipv4, 82) == other
        assert asks(ground.victim, ground.evil.ipv6, 82) == other
        # Friends alone, of which there are none yet; then there is one.
        group(host, "web", {"direction": "ingress", "protocol": "tcp", "group": "friends"})
        assert keeps_out(ground, 80)
        ground.attacker.nics.set_filters(ground.evil.mac, security_groups=["friends"])
        assert lets_in(ground, 80)
        assert lets_in(ground, 81)
        for entry in ("web", "friends"):
            with pytest.raises(vmctl.ConflictError, match="is used by"):
                host.security_groups.delete(entry)
        ground.attacker.nics.set_filters(ground.evil.mac, security_groups=[])
        assert keeps_out(ground, 80)
        with pytest.raises(vmctl.ConflictError, match="rules of web name"):
            host.security_groups.delete("friends")
        # What goes out: to the neighbour no more, and to the host's services no more.
        group(host, "web", {"direction": "egress", "protocol": "udp", "cidr": "10.66.0.1"})
        assert asks(ground.victim, ground.evil.ipv4, 82, patience=2) == ""
        assert asks(ground.victim, ground.evil.ipv6, 82, patience=2) == ""
        assert ground.victim.run("nslookup nobody.example 10.66.0.1").exit_status != 0
        assert ground.victim.run("sudo -n ping -c1 -w2 10.66.0.1").exit_status != 0
    finally:
        ground.victim.nics.set_filters(mac, security_groups=[], antispoofing=False)
    reaches_each_other(ground)
    for entry in ("web", "friends"):
        host.security_groups.delete(entry)
    assert host.security_groups.list() == []
    assert host.gc() == []
