"""Ports of the host that lead into guests, on networks and in user mode, from both sides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.errors import ConflictError, NotFoundError, UnsupportedError
from vmctl.guest import port_relays
from vmctl.guest.netns import do_in
from vmctl.guest.reach import Reach
from vmctl.hypervisor import private
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.uri import HostAddress

from .conftest import SpecMaker, libvirtd_pid

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces"),
]

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 20


class Outside:
    """The host's side: what is tried from inside its network namespace."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace

    def connect(self, port: int, address: str = "127.0.0.1") -> socket.socket:
        return do_in(
            self._namespace, lambda: socket.create_connection((address, port), timeout=_SECONDS)
        )

    def ask(self, port: int, address: str = "127.0.0.1") -> bytes:
        """Return all that is said on a port when nothing is said first."""
        with self.connect(port, address) as client:
            client.shutdown(socket.SHUT_WR)
            said = b""
            while piece := client.recv(4096):
                said += piece
            return said

    def by_udp(self, port: int) -> socket.socket:
        def made() -> socket.socket:
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.settimeout(_SECONDS)
            client.connect(("127.0.0.1", port))
            return client

        return do_in(self._namespace, made)

    def listen(self, port: int) -> socket.socket:
        return do_in(self._namespace, lambda: socket.create_server(("127.0.0.1", port)))

    def relays(self) -> list[str]:
        """Return the sockets of who passes ports on."""
        text = do_in(self._namespace, lambda: Path("/proc/thread-self/net/unix").read_text())
        return sorted({word for word in text.split() if word.startswith("@vmctl-port/")})

    def none_left(self) -> None:
        """Wait until nobody passes anything on."""
        gone = Signal().wait_for(
            lambda: None if self.relays() else True,
            deadline=time.monotonic() + _SECONDS,
            recheck=0.05,
        )
        assert gone, self.relays()

    def refuses(self, port: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            self.connect(port)


@pytest.fixture(scope="module")
def outside(private_host: private.PrivateHost) -> Outside:
    assert private_host.network_namespace is not None
    return Outside(private_host.network_namespace)


@pytest.fixture(scope="module")
def cellar(host: vmctl.Host) -> Iterator[str]:
    """An isolated network."""
    name = f"c{uuid.uuid4().hex[:8]}"
    host.networks.create(vmctl.NetworkSpec(name=name, mode="isolated"))
    yield name
    host.networks.delete(name)


def serve(vm: vmctl.VM) -> None:
    """Say hello on port 8000 to whoever comes, and to the next one."""
    vm.run(
        f"printf '#!/bin/sh\\necho hello from {vm.name}\\n' >/tmp/hello; chmod +x /tmp/hello; "
        "nc -ll -p 8000 -e /tmp/hello </dev/null >/dev/null 2>&1 & "
        "until netstat -ltn | grep -q :8000; do usleep 50000; done",
        check=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def serving(
    host: vmctl.Host, micro_image: str, cellar: str, outside: Outside
) -> Iterator[vmctl.VM]:
    """A guest on the isolated network, and in user mode, that serves."""
    vm = host.launch(
        vmctl.VMSpec.model_validate(
            {
                "name": f"p{uuid.uuid4().hex[:8]}",
                "image": micro_image,
                "memory": "192MiB",
                "nics": [{"network": cellar}, {"user": True}],
            }
        )
    )
    serve(vm)
    yield vm
    vm.delete()
    outside.none_left()


@pytest.fixture
def guest(serving: vmctl.VM, outside: Outside) -> Iterator[vmctl.VM]:
    """That guest; every port of it is closed again."""
    yield serving
    for entry in serving.ports.list():
        serving.ports.unpublish(entry.host_port, protocol=entry.protocol)
    assert outside.relays() == []


def port(host_port: int, guest_port: int = 8000, **more: object) -> vmctl.ForwardSpec:
    return vmctl.ForwardSpec.model_validate({"host": host_port, "guest": guest_port, **more})


def recorded(vm: vmctl.VM) -> list[dict[str, object]]:
    """Return the ports in libvirt's own metadata."""
    record = vm._domain.record()
    assert record is not None
    return [entry for nic in record.spec["nics"] for entry in nic.get("forwards") or ()]


def test_a_port_of_a_guest_on_an_isolated_network(
    host: vmctl.Host, private_host: private.PrivateHost, guest: vmctl.VM, outside: Outside
) -> None:
    hello = f"hello from {guest.name}\n".encode()
    outside.refuses(8080)
    made = guest.ports.publish(port(8080), port(5300, 5353, protocol="udp"))
    assert len(outside.relays()) == 2
    assert [(p.host_port, p.guest_port, p.protocol, p.open) for p in made] == [
        (8080, 8000, "tcp", True),
        (5300, 5353, "udp", True),
    ]
    assert {entry["host"] for entry in recorded(guest)} == {8080, 5300}
    assert outside.ask(8080) == hello
    # Nobody in the guest listens there, which its kernel counts.
    count = "awk '/^Udp: [0-9]/ {print $3}' /proc/net/snmp"
    before = int(guest.run(count, check=True).stdout)
    with outside.by_udp(5300) as client:
        client.send(b"ping")
        assert Signal().wait_for(
            lambda: True if int(guest.run(count).stdout) > before else None,
            deadline=time.monotonic() + _SECONDS,
            recheck=0.1,
        )
    # Nobody but the host itself reaches it.
    bridge = host.networks.info(guest.nics.list()[0].source)
    gate = bridge.subnets[0].replace(".0/24", ".1")
    with pytest.raises(ConnectionRefusedError):
        outside.connect(8080, gate)
    # It does not hang on its client, nor on libvirtd.
    with vmctl.connect(f"private:{private_host.name}") as other:
        assert [p.open for p in other.get(guest.name).ports.list()] == [True, True]
    os.kill(libvirtd_pid(private_host), signal.SIGKILL)
    assert outside.ask(8080) == hello
    # A second time changes nothing, when libvirtd is there again.
    assert len(outlasting(guest.ports.list)) == 2
    held = outside.relays()
    assert set(guest.ports.publish(port(8080))) == set(made)
    assert outside.relays() == held
    # What runs through it ends with it; another one stays.
    with outside.connect(8080) as client:
        gone = guest.ports.unpublish(8080)
        assert (gone.host_port, gone.open) == (8080, True)
        while client.recv(4096):
            pass
    outside.refuses(8080)
    assert [entry["host"] for entry in recorded(guest)] == [5300]
    guest.ports.unpublish(5300, protocol="udp")
    assert guest.ports.list() == []
    with pytest.raises(NotFoundError, match="no tcp port 8080 leads into"):
        guest.ports.unpublish(8080)


def test_a_port_of_a_user_mode_nic(guest: vmctl.VM, outside: Outside) -> None:
    mac = guest.nics.list()[1].mac
    (made,) = guest.ports.publish(port(8081), mac=mac)
    assert (made.mac, made.open) == (mac, True)
    assert outside.ask(8081).startswith(b"hello")
    with outside.listen(8082), pytest.raises(ConflictError, match="can't forward the port 8082"):
        guest.ports.publish(port(8082), mac=mac)
    assert [entry["host"] for entry in recorded(guest)] == [8081]
    # What a spec wants is had in the same way.
    spec = guest.with_values({f"nics.{mac}.forwards": [{"host": 8083, "guest": 8000}]})
    assert guest.apply(spec).made == (f"nics.{mac}.forwards",)
    outside.refuses(8081)
    assert outside.ask(8083).startswith(b"hello")
    guest.ports.unpublish(8083)
    outside.refuses(8083)
    assert outside.relays() == []


def test_ports_that_are_taken(host: vmctl.Host, guest: vmctl.VM, outside: Outside) -> None:
    with outside.listen(8090), pytest.raises(ConflictError, match="8090.*: it is in use"):
        guest.ports.publish(port(8090))
    assert recorded(guest) == []
    # Two of which the second can't be had: neither is.
    with outside.listen(8092), pytest.raises(ConflictError):
        guest.ports.publish(port(8091), port(8092))
    assert outside.relays() == []
    outside.refuses(8091)
    guest.ports.publish(port(8091))
    with pytest.raises(ConflictError, match="leads to the port 8000 of .* already"):
        guest.ports.publish(port(8091, 22))
    with pytest.raises(UnsupportedError, match="the host has no address 192.0.2.1"):
        guest.ports.publish(port(8093, address="192.0.2.1"))
    assert [entry["host"] for entry in recorded(guest)] == [8091]
    guest.ports.unpublish(8091)


def test_it_goes_with_the_guest_and_comes_back(
    host: vmctl.Host, make_spec: SpecMaker, guest: vmctl.VM, outside: Outside, nothing_left: None
) -> None:
    forwards = [{"host": 8100, "guest": 22}]
    vm = host.launch(make_spec(nics=[{"network": "default", "forwards": forwards}]))

    def banner() -> bytes:
        with outside.connect(8100) as client:
            return client.recv(8)

    assert banner() == b"SSH-2.0-"
    with pytest.raises(ConflictError, match=f"leads to '{vm.name}' already"):
        guest.ports.publish(port(8100, address="0.0.0.0"))  # noqa: S104
    with pytest.raises(ConflictError, match=f"it leads to '{vm.name}'"):
        host.launch(make_spec(nics=[{"network": "default", "forwards": forwards}]))
    vm.run("sync", check=True)
    # QEMU is killed, and nobody of vmctl's is there to see it.
    qemu = Path(f"/proc/{_qemu_of(vm)}")
    os.kill(int(qemu.name), signal.SIGKILL)
    outside.none_left()
    outside.refuses(8100)
    assert [p.open for p in vm.ports.list()] == [False]
    vm.start()
    assert [p.open for p in vm.ports.list()] == [True]
    vm.wait()
    assert banner() == b"SSH-2.0-"
    # A guest that is stopped and started at once does not meet its own past.
    vm.stop(timeout=0, force=True)
    vm.start()
    assert [p.open for p in vm.ports.list()] == [True]
    # By virsh, who knows nothing of ports, until vmctl is asked to start it.
    raw = host._connection.raw.lookupByUUIDString(vm.uuid)
    raw.destroy()
    raw.create()
    outside.none_left()
    vm.start()
    assert [p.open for p in vm.ports.list()] == [True]
    vm.delete()
    outside.none_left()
    outside.refuses(8100)


def _qemu_of(vm: vmctl.VM) -> str:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if vm.uuid.encode() in words and b"qemu-system" in words:
                return entry.name
    raise AssertionError("it has no QEMU")


_KILLED = """
import sys, vmctl
from vmctl.guest import ports
real = ports.open_one
def dies(*args):
    if sys.argv[3] == "open":
        real(*args)
    print("there", flush=True)
    sys.stdin.read()
ports.open_one = dies
with vmctl.connect(sys.argv[1]) as host:
    host.get(sys.argv[2]).ports.publish(vmctl.ForwardSpec(host=8110, guest=8000))
"""


@pytest.mark.parametrize("when", ["recorded", "open"])
def test_a_client_is_killed_in_the_middle(
    host: vmctl.Host,
    private_host: private.PrivateHost,
    guest: vmctl.VM,
    outside: Outside,
    when: str,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, f"private:{private_host.name}", guest.name, when],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        client.send_signal(signal.SIGKILL)
    host.gc(dry_run=False)
    (half,) = guest.ports.list()
    # What is open is in the record, and what the record has is told as it is.
    assert (half.host_port, half.open) == (8110, when == "open")
    assert bool(outside.relays()) == half.open
    guest.start()
    assert outside.ask(8110).startswith(b"hello")
    guest.ports.unpublish(8110)
    assert outside.relays() == []


def test_where_no_port_can_lead(host: vmctl.Host, make_spec: SpecMaker, nothing_left: None) -> None:
    six = vmctl.NetworkSpec(name=f"six{os.getpid()}", mode="isolated", ipv6="fd00:66::/64")
    host.networks.create(six)
    forwards = [{"host": 8120, "guest": 22}]
    try:
        with pytest.raises(UnsupportedError, match="it has no IPv4 subnet"):
            host.launch(make_spec(nics=[{"network": six.name, "forwards": forwards}]))
    finally:
        host.networks.delete(six.name)


def test_on_the_command_line(
    private_host: private.PrivateHost, guest: vmctl.VM, outside: Outside
) -> None:
    def call(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "vmctl.cli.main", "-f", "json", "port", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=_ROOT,
            env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
        )
        assert done.returncode == code, done.stderr
        return done

    (made,) = json.loads(call("publish", guest.name, "0.0.0.0:8130:8000").stdout)
    assert (made["address"], made["host_port"], made["open"]) == (
        "0.0.0.0",  # noqa: S104
        8130,
        True,
    )
    assert outside.ask(8130).startswith(b"hello")
    assert json.loads(call("list", guest.name).stdout) == [made]
    call("unpublish", guest.name, "8130")
    assert json.loads(call("list", guest.name).stdout) == []
    assert "is not [ADDRESS:]PORT" in call("publish", guest.name, "http:80", code=2).stderr


_MAC = "52:54:00:aa:bb:cc"


@pytest.fixture
def cable(private_host: private.PrivateHost) -> Iterator[tuple[Path, Path]]:
    """A stand-in for a guest: the network namespaces of the host, and behind a cable."""
    namespace = private_host.network_namespace
    assert namespace is not None
    enter = ["nsenter", f"--net={namespace}"]
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as behind:
        assert behind.stdout is not None
        behind.stdout.readline()
        inner = Path(f"/proc/{behind.pid}/ns/net")
        inside = ["nsenter", f"--net={inner}"]
        for command in (
            f"ip link add vp0 address fe{_MAC[2:]} type veth peer name vp1 address {_MAC}",
            f"ip link set vp1 netns {behind.pid}",
            "ip addr add 10.99.0.1/24 dev vp0",
            "ip link set vp0 up",
        ):
            subprocess.run([*enter, *command.split()], check=True)
        for command in ("ip addr add 10.99.0.2/24 dev vp1", "ip link set vp1 up"):
            subprocess.run([*inside, *command.split()], check=True)
        try:
            yield namespace, inner
        finally:
            subprocess.run([*enter, "ip", "link", "del", "vp0"], check=False)
            assert behind.stdin is not None
            behind.stdin.close()


def ask_program(namespace: Path, **asked: object) -> dict[str, object]:
    host = Reach(HostAddress(uri="", name="", network_namespace=namespace))
    given = {
        "command": "open",
        "uuid": "u",
        "protocol": "tcp",
        "address": "127.0.0.1",
        "port": 8140,
        "guest_port": 7,
        "device": "vp0",
        "mac": _MAC,
        "targets": [],
        "hint": "",
        "subnets": ["10.99.0.0/24"],
    } | asked
    done = host.run_program(port_relays.program(given), "vmctl-port", timeout=30)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_what_is_passed_on_and_what_is_not(cable: tuple[Path, Path], outside: Outside) -> None:
    namespace, inner = cable

    def bound(kind: socket.SocketKind) -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        made.settimeout(_SECONDS)
        made.bind(("10.99.0.2", 7))
        return made

    udp = {"protocol": "udp", "port": 8141}
    with (
        do_in(inner, lambda: bound(socket.SOCK_DGRAM)) as guest,
        do_in(namespace, lambda: socket.create_server(("10.99.0.1", 7))) as own,
    ):
        assert ask_program(namespace, **udp, hint="10.99.0.2") == {"opened": True}
        assert ask_program(namespace, **udp) == {"opened": False}
        with outside.by_udp(8141) as one, outside.by_udp(8141) as two:
            # Each has a conversation of its own.
            for client, text in ((one, b"one"), (two, b"two")):
                client.send(text)
                said, sender = guest.recvfrom(100)
                guest.sendto(said.upper(), sender)
                assert client.recv(100) == text.upper()
        # What a guest says that it is, or was put down as, can't lead to the host's own services.
        assert ask_program(namespace, targets=["10.99.0.1"]) == {"opened": True}
        with outside.connect(8140) as client:
            assert client.recv(100) == b""
        own.settimeout(_SECONDS)
        own.accept()[0].close()
        # Another guest's device, and one that is not there.
        for given in ({"mac": "52:54:00:aa:bb:cd"}, {"device": "vp9"}):
            assert ask_program(namespace, port=8142, **given)["error"] == "no-device"
    subprocess.run(["nsenter", f"--net={namespace}", "ip", "link", "del", "vp0"], check=True)
    outside.none_left()
    outside.refuses(8140)
