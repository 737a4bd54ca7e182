"""Tenants: what is refused, and attacks from inside a tenant's guest on others and on the host.

The networks are routed, so that libvirt's own rules let their guests reach each other. What keeps
them apart is what vmctl adds, and every attack is shown to succeed without it.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

import vmctl
from vmctl.errors import ConflictError, NotFoundError, SpecError
from vmctl.hypervisor import image_names, nwfilters, private
from vmctl.hypervisor.pools import open_pool
from vmctl.render.filter_names import eui64

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
]

_DEVICE = "nic0"
# A service of the host's on all of its addresses, a relay of it to beta's guest, and that guest's.
_SERVICE, _PUBLISHED, _GUEST = 7701, 7702, 7703
_PUBLIC = "198.51.100.7"
_OUTSIDE = "203.0.113.9"

_SERVER = """
import socket, sys, threading
def answer(port, to):
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    server.listen(64)
    while True:
        client, _ = server.accept()
        try:
            said = b"host-answers\\n" if to is None else ask(to)
            client.sendall(said)
        except OSError:
            pass
        client.close()
def ask(to):
    with socket.create_connection(to, 5) as peer:
        return peer.recv(64)
for word in sys.argv[1:]:
    port, _, to = word.partition("=")
    where = (to, 7703) if to else None
    threading.Thread(target=answer, args=(int(port), where)).start()
print("up", flush=True)
"""


@dataclass(frozen=True)
class Ground:
    """Where it happens: two tenants, and a network that both are on."""

    alpha: vmctl.VM
    friend: vmctl.VM
    beta: vmctl.VM
    addresses: dict[str, str]


def _network(host: vmctl.Host, name: str, number: int, **more: object) -> vmctl.NetworkInfo:
    fields = {
        "name": name,
        "mode": "route",
        "domain": f"{name}.example",
        "ipv4": f"10.77.{number}.0/24",
        "ipv6": f"fd00:77:{number}::/64",
    }
    return host.networks.create(vmctl.NetworkSpec.model_validate(fields | more))


def _guest(host: vmctl.Host, image: str, tenant: str | None, *networks: str) -> vmctl.VM:
    spec = {
        "name": f"t{uuid.uuid4().hex[:8]}",
        "tenant": tenant,
        "image": image,
        "memory": "128MiB",
        "nics": [{"network": network} for network in networks],
    }
    return host.launch(vmctl.VMSpec.model_validate(spec), wait=False)


@contextmanager
def _serving(namespace: str, *words: str) -> Iterator[None]:
    command = ["nsenter", f"--net={namespace}", sys.executable, "-c", _SERVER, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            yield
        finally:
            server.kill()


@contextmanager
def _outside(namespace: str) -> Iterator[None]:
    """The world beyond the host: a namespace of its own, behind a pair of devices."""
    enter = ["nsenter", f"--net={namespace}", "ip"]
    world = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    try:
        for words in (
            ["link", "add", "vmctl-out", "type", "veth", "peer", "name", "vmctl-in"],
            ["addr", "add", "203.0.113.1/24", "dev", "vmctl-out"],
            ["addr", "add", f"{_PUBLIC}/32", "dev", "vmctl-out"],
            ["link", "set", "vmctl-out", "up"],
        ):
            subprocess.run([*enter, *words], check=True)
        # The new namespace is there when it is another than that of this process.
        own, its = (Path(f"/proc/{name}/ns/net") for name in ("self", world.pid))
        while its.readlink() == own.readlink():
            os.sched_yield()
        subprocess.run([*enter, "link", "set", "vmctl-in", "netns", str(world.pid)], check=True)
        inside = ["nsenter", f"--net=/proc/{world.pid}/ns/net", "ip"]
        for words in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{_OUTSIDE}/24", "dev", "vmctl-in"],
            ["link", "set", "vmctl-in", "up"],
            ["route", "add", "default", "via", "203.0.113.1"],
        ):
            subprocess.run([*inside, *words], check=True)
        with _serving(f"/proc/{world.pid}/ns/net", str(_SERVICE)):
            yield
    finally:
        world.kill()
        world.wait()


@pytest.fixture(scope="module")
def ground(
    host: vmctl.Host, micro_image: str, private_host: private.PrivateHost
) -> Iterator[Ground]:
    namespace = str(private_host.network_namespace)
    before = nwfilters.list_names(host._connection)
    with ExitStack() as stack:
        for name, number, more in (
            ("alpha", 1, {"tenant": "alpha", "keep_from": _PUBLIC}),
            ("beta", 2, {"tenant": "beta"}),
            (
                "shared",
                3,
                {"mode": "nat", "shared": True, "isolate_guests": True, "keep_from": _PUBLIC},
            ),
        ):
            _network(host, name, number, **more)
            stack.callback(host.networks.delete, name)
        vms = []
        for tenant in ("alpha", "alpha", "beta"):
            vms.append(_guest(host, micro_image, tenant, tenant, "shared"))
            stack.callback(vms[-1].delete)
        for vm in vms:
            vm.wait()
        addresses = _addresses(host, *vms)
        _route(vms, addresses)
        for vm in vms[1:]:
            serve = f"(nc -ll -p {_GUEST} -e /bin/echo guest-answers >/dev/null 2>&1 &)"
            vm.run(f"sudo -n sh -c '{serve}'", check=True)
        stack.enter_context(_outside(namespace))
        stack.enter_context(_serving(namespace, str(_SERVICE), f"{_PUBLISHED}={addresses['beta']}"))
        yield Ground(vms[0], vms[1], vms[2], addresses)
    assert nwfilters.list_names(host._connection) == before


def _addresses(
    host: vmctl.Host, alpha: vmctl.VM, friend: vmctl.VM, beta: vmctl.VM
) -> dict[str, str]:
    found = {}
    for name, vm, number in (("alpha", alpha, 1), ("friend", friend, 1), ("beta", beta, 2)):
        leases = {lease.mac: lease.address for lease in host.networks.leases(name_of(number))}
        mac, other = (nic.mac for nic in vm.nics.list())
        found[name] = leases[mac]
        found[f"{name}6"] = eui64(mac, f"fd00:77:{number}::/64")
        shared = {lease.mac: lease.address for lease in host.networks.leases("shared")}
        found[f"{name}-shared"] = shared[other]
    return found


def _route(vms: list[vmctl.VM], addresses: dict[str, str]) -> None:
    """Let guests send by their own network, and two of them to each other by the shared host."""
    for vm, number, peer in zip(vms, (1, 1, 2), ("beta", "", "alpha"), strict=True):
        commands = [f"ip route replace default via 10.77.{number}.1 dev nic0"]
        if peer:
            to = addresses[f"{peer}-shared"]
            commands.append(f"ip route replace {to}/32 via 10.77.3.1 dev nic1")
        vm.run(["sudo", "-n", "sh", "-c", " && ".join(commands)], check=True)


def name_of(number: int) -> str:
    return {1: "alpha", 2: "beta", 3: "shared"}[number]


def tries(ground: Ground) -> dict[str, str]:
    """Return what alpha's guest tries, each a command that says `answers` when it gets through."""
    found = ground.addresses

    def ask(address: str, port: int) -> str:
        return f"nc -w 5 {address} {port} </dev/null"

    return {
        "beta's guest": ask(found["beta"], _GUEST),
        "beta's guest, IPv6": ask(found["beta6"], _GUEST),
        "beta's guest, ping": f"ping -c1 -W5 {found['beta']} >/dev/null && echo answers",
        "beta's guest, ping6": f"ping -6 -c1 -W5 {found['beta6']} >/dev/null && echo answers",
        "beta's guest, by the shared network's host": ask(found["beta-shared"], _GUEST),
        "own gateway": ask("10.77.1.1", _SERVICE),
        "own gateway, IPv6": ask("fd00:77:1::1", _SERVICE),
        "own gateway, on the link": (
            f"nc -w 5 $(ip -6 route | sed -n 's/^default via \\([^ ]*\\).* dev {_DEVICE}.*/\\1/p'"
            f" | head -n1)%{_DEVICE} {_SERVICE} </dev/null"
        ),
        "shared gateway": ask("10.77.3.1", _SERVICE),
        "beta's gateway": ask("10.77.2.1", _SERVICE),
        "beta's gateway, IPv6": ask("fd00:77:2::1", _SERVICE),
        "the default network's gateway": ask("192.168.122.1", _SERVICE),
        "the host's public address": ask(_PUBLIC, _SERVICE),
        "beta's published port": ask("10.77.1.1", _PUBLISHED),
        "beta's published port, IPv6": ask("fd00:77:1::1", _PUBLISHED),
    }


def results(vm: vmctl.VM, commands: dict[str, str]) -> dict[str, bool]:
    """Run all of them at once; returns which got through."""
    names = list(commands)
    script = "".join(
        f"(({commands[name]}) 2>/dev/null | grep -q answers && echo got-{number}) & "
        for number, name in enumerate(names)
    )
    said = vm.run(["sudo", "-n", "sh", "-c", f"{script} wait"], check=True).stdout.split()
    return {name: f"got-{number}" in said for number, name in enumerate(names)}


@contextmanager
def unfenced(vm: vmctl.VM) -> Iterator[None]:
    """Take the filters off a running machine's NICs, past vmctl, for a while."""
    raw = vm._domain.raw()
    nodes = etree.fromstring(vm.xml()).findall("devices/interface")
    before = [etree.tostring(node, encoding="unicode") for node in nodes]
    for node in nodes:
        for reference in node.findall("filterref"):
            node.remove(reference)
        bare = etree.tostring(node, encoding="unicode")
        raw.updateDeviceFlags(bare, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    try:
        yield
    finally:
        for xml in before:
            raw.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_attacks_fail_and_succeed_without_the_fence(ground: Ground) -> None:
    commands = tries(ground)
    with unfenced(ground.alpha):
        assert ground.alpha.audit().line("tenant").verdict == "fails"
        without = results(ground.alpha, commands)
    assert ground.alpha.audit().line("tenant").verdict == "holds"
    assert without == dict.fromkeys(commands, True)
    fenced = results(ground.alpha, commands)
    assert fenced == dict.fromkeys(commands, False)


def test_what_a_guest_is_for_goes_on(ground: Ground, host: vmctl.Host) -> None:
    """With the fence: addresses, names, neighbours, the world; and its host reaches it."""
    found = ground.addresses
    passed = results(
        ground.alpha,
        {
            "neighbour": f"nc -w 5 {found['friend']} {_GUEST} </dev/null",
            "neighbour, IPv6": f"nc -w 5 {found['friend6']} {_GUEST} </dev/null",
            "neighbour, ping6": f"ping -6 -c1 -W5 {found['friend6']} >/dev/null && echo answers",
            "world": f"nc -w 5 {_OUTSIDE} {_SERVICE} </dev/null",
            "gateway, ping": "ping -c1 -W5 10.77.1.1 >/dev/null && echo answers",
            "gateway, ping6": "ping -6 -c1 -W5 fd00:77:1::1 >/dev/null && echo answers",
            "names": f"nslookup {ground.friend.name}.alpha.example 10.77.1.1 "
            f"| grep -q {found['friend']} && echo answers",
            "names, IPv6": f"nslookup {ground.friend.name}.alpha.example fd00:77:1::1 "
            f"| grep -q {found['friend']} && echo answers",
            "DHCP": f"udhcpc -n -q -t5 -T2 -i {_DEVICE} -s /bin/true && echo answers",
        },
    )
    assert passed == dict.fromkeys(passed, True)
    # The host calls the guest, which answers: that is how vmctl speaks to it.
    assert ground.alpha.run("echo here", check=True).stdout == "here\n"


def test_a_security_group_opens_no_gate(ground: Ground, host: vmctl.Host) -> None:
    """All that it lets out, and lets in the answers to, passes the fence first."""
    group = f"g{uuid.uuid4().hex[:8]}"
    host.security_groups.create(vmctl.SecurityGroupSpec.model_validate({"name": group}))
    mac = ground.alpha.nics.list()[1].mac
    commands = {
        name: command
        for name, command in tries(ground).items()
        if name in {"shared gateway", "beta's guest, by the shared network's host"}
    }
    assert len(commands) == 2
    name = f"nslookup {ground.friend.name}.shared.example 10.77.3.1"
    where = ground.addresses["friend-shared"]
    legitimate = {"names": f"{name} | grep -q {where} && echo answers"}
    try:
        ground.alpha.nics.set_filters(mac, security_groups=[group])
        assert results(ground.alpha, commands | legitimate) == (
            dict.fromkeys(commands, False) | {"names": True}
        )
        assert ground.alpha.audit().line("tenant").verdict == "holds"
    finally:
        with pytest.raises(SpecError, match="which is shared, it would get by lies"):
            ground.alpha.nics.set_filters(mac, security_groups=[], antispoofing=False)
        ground.alpha.nics.set_filters(mac, security_groups=[])
        host.security_groups.delete(group)
    assert results(ground.alpha, commands) == dict.fromkeys(commands, False)


def _question(name: str, server: str, address: str) -> str:
    """Ask a server for an address over TCP, where it minds least which way the question came."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + labels + b"\0\0\x01\0\x01"
    text = "".join(f"\\x{byte:02x}" for byte in len(query).to_bytes(2, "big") + query)
    wanted = ipaddress.ip_address(address).packed.hex()
    listen = f"nc -w 3 {server} 53 | od -An -v -tx1 | tr -d ' \\n'"
    return f"printf '{text}' | {listen} | grep -q {wanted} && echo answers"


def test_names_of_another_tenant_are_not_told(ground: Ground) -> None:
    """Its own network's server knows none of them, and the other's is not to be asked."""
    name = f"{ground.beta.name}.beta.example"
    where = ground.addresses["beta"]
    own = {server: _question(name, server, where) for server in ("10.77.1.1", "fd00:77:1::1")}
    assert results(ground.alpha, own) == dict.fromkeys(own, False)
    others = {server: _question(name, server, where) for server in ("10.77.2.1", "fd00:77:2::1")}
    # It is one, for those whom it is for.
    assert results(ground.beta, others) == dict.fromkeys(others, True)
    reach = {server: f"nc -w 3 {server} 53 </dev/null && echo answers" for server in others}
    with unfenced(ground.alpha):
        assert results(ground.alpha, reach) == dict.fromkeys(others, True)
    assert results(ground.alpha, reach) == dict.fromkeys(others, False)
    assert results(ground.alpha, others) == dict.fromkeys(others, False)


def test_others_networks_are_refused_before_anything_is_made(
    ground: Ground, host: vmctl.Host, micro_image: str
) -> None:
    before = {line.name for line in host.list()}

    def spec(tenant: str | None, *nics: dict[str, Any]) -> vmctl.VMSpec:
        fields = {"name": "refused", "tenant": tenant, "image": micro_image, "nics": nics}
        return vmctl.VMSpec.model_validate(fields)

    for tenant, nic in (
        ("alpha", {"network": "beta"}),
        (None, {"network": "beta"}),
        ("alpha", {"network": "default"}),
        ("alpha", {"user": True}),
        ("alpha", {"bridge": "virbr0"}),
    ):
        with pytest.raises(SpecError) as caught:
            host.create(spec(tenant, nic))
        assert [problem.path.partition(".")[0] for problem in caught.value.problems] == ["nics[0]"]
    assert {line.name for line in host.list()} == before
    other = vmctl.NicSpec.model_validate({"network": "beta"})
    with pytest.raises(SpecError, match="may not join"):
        ground.alpha.nics.attach(other)
    nics = [*(nic.mac for nic in ground.alpha.nics.list())]
    changed = ground.alpha.with_values({f"nics.{nics[0]}.network": "beta"})
    with pytest.raises(SpecError, match="may not join"):
        ground.alpha.compare(changed)
    # What it was made of is no difference; and whose it is can't be changed.
    assert ground.alpha.compare(ground.alpha.with_values({})).differences == ()
    (moved,) = ground.alpha.compare(ground.alpha.with_values({"tenant": "beta"})).differences
    assert (moved.path, str(moved.when)) == ("tenant", "anew")
    # Lists know whose is what.
    assert {line.name for line in host.list(tenant="beta")} == {ground.beta.name}
    assert {entry.name for entry in host.networks.list(tenant="alpha")} == {"alpha", "shared"}


def test_a_clone_is_fenced_as_its_source(ground: Ground) -> None:
    clone = ground.friend.clone(f"c{uuid.uuid4().hex[:8]}")
    try:
        record = clone._domain.record()
        assert record is not None
        assert record.spec["tenant"] == "alpha"
        assert clone.xml(inactive=True).count("<filterref filter=") == 2
    finally:
        clone.delete()


def test_a_tenants_image_is_its_own(host: vmctl.Host, micro_image: str) -> None:
    kept = host.images.import_file(micro_image, name="alphas-own", tenant="alpha")
    try:
        assert [known.tenant for known in kept.names if known.name == "alphas-own"] == ["alpha"]
        fields: dict[str, Any] = {
            "name": "thief",
            "image": "alphas-own",
            "nics": [],
            "cloud_init": None,
        }
        for tenant in (None, "beta"):
            with pytest.raises(NotFoundError, match="there is no image 'alphas-own'"):
                host.create(vmctl.VMSpec.model_validate({**fields, "tenant": tenant}))
        with pytest.raises(ConflictError, match="is alpha's already"):
            host.images.import_file(micro_image, name="alphas-own", tenant="beta")
        own = host.create(vmctl.VMSpec.model_validate({**fields, "tenant": "alpha"}))
        own.delete()
        assert kept.digest in {image.digest for image in host.images.list(tenant="alpha")}
        assert kept.digest not in {image.digest for image in host.images.list(tenant="beta")}
    finally:
        # The image itself is other tests' as well.
        image_names.remove_name(open_pool(host._connection, host.pool), "alphas-own")
