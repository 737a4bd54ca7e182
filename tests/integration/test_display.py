"""Displays: who may see the screen, and who may not, spoken to as a viewer speaks to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

from .legacy_guest import legacy_spec

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
except ImportError:  # before 43
    from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_left")]

# RFC 6143, 7.1.2.
_NONE, _VNC = 1, 2
_EVERYWHERE = "0.0.0.0"  # noqa: S104
Server = tuple[str, int]


class Viewer:
    """The first words of a VNC viewer (RFC 6143, 7.1)."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.settimeout(30)
        assert self._read(12) == b"RFB 003.008\n"
        connection.sendall(b"RFB 003.008\n")
        self.security = set(self._read(self._read(1)[0]))

    def _read(self, count: int) -> bytes:
        return read_exactly(self._connection, count)

    def log_in(self, password: str | None) -> bool:
        if password is None:
            self._connection.sendall(bytes((_NONE,)))
        else:
            self._connection.sendall(bytes((_VNC,)))
            # The bits of each byte of the key come in the wrong order.
            padded = password.encode().ljust(8, b"\0")
            key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in padded)
            cipher = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305
            self._connection.sendall(cipher.update(self._read(16)))
        return self._read(4) == bytes(4)


def read_exactly(connection: Any, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = connection.recv(count - len(got))
        assert piece, got
        got += piece
    return got


def let_in_by_spice(host: vmctl.Host, server: Server, password: str) -> bool:
    """Return whether a viewer is let in (https://www.spice-space.org/spice-protocol.html)."""
    with host.reach.open(*server, timeout=10) as connection:
        connection.settimeout(30)
        # A link to the main channel, without any capability: then a ticket is all that counts.
        connection.sendall(struct.pack("<4sIIIIBBIII", b"REDQ", 2, 2, 18, 0, 1, 0, 0, 0, 18))
        magic, _major, _minor, size = struct.unpack("<4sIII", read_exactly(connection, 16))
        reply = read_exactly(connection, size)
        assert (magic, reply[:4]) == (b"REDQ", bytes(4))
        key = load_der_public_key(reply[4:166])
        assert isinstance(key, rsa.RSAPublicKey)
        hashed = hashes.SHA1()  # noqa: S303 - the protocol's own
        form = padding.OAEP(padding.MGF1(hashed), algorithm=hashed, label=None)
        connection.sendall(key.encrypt(f"{password}\0".encode(), form))
        return read_exactly(connection, 4) == bytes(4)


def let_in(host: vmctl.Host, server: Server, password: str | None) -> bool:
    """Return whether a viewer is let in that is asked for a password, or for none."""
    with host.reach.open(*server, timeout=10) as connection:
        seen = Viewer(connection)
        assert seen.security == {_NONE if password is None else _VNC}
        return seen.log_in(password)


def server_of(vm: vmctl.VM, kind: str = "vnc") -> Server:
    found = next(display for display in vm.screen.displays() if display.type == kind)
    assert found.port is not None
    return found.address, found.port


def listening(private_host: private.PrivateHost) -> set[str]:
    """Return the addresses on which TCP is listened, as the host sees them."""
    namespace = private_host.network_namespace
    assert namespace is not None
    lines = (namespace.parents[1] / "net" / "tcp").read_text().splitlines()[1:]
    return {line.split()[1] for line in lines if line.split()[3] == "0A"}


def test_a_display_without_a_password(
    private_host: private.PrivateHost, host: vmctl.Host, old: vmctl.VM
) -> None:
    (display,) = old.screen.displays()
    assert (display.type, display.address, display.password) == ("vnc", "127.0.0.1", False)
    assert display.uri == f"vnc://127.0.0.1:{display.port}"
    # On loopback alone.
    assert f"0100007F:{display.port:04X}" in listening(private_host)
    assert f"00000000:{display.port:04X}" not in listening(private_host)
    assert let_in(host, server_of(old), None)
    with pytest.raises(vmctl.WrongStateError) as caught:
        old.screen.set_password("s3cret")
    assert "vmctl stop" in caught.value.hint
    with pytest.raises(vmctl.NotFoundError):
        old.screen.set_password("s3cret", type="spice")
    for nonsense in ("", "ninechars", "\u00fcber", "a\nb"):
        with pytest.raises(vmctl.UsageError):
            old.screen.set_password(nonsense)
    with pytest.raises(vmctl.UsageError):
        old.screen.set_password("a", type="rdp")


def test_passwords(private_host: private.PrivateHost, host: vmctl.Host, tmp_path: Path) -> None:
    graphics = [
        {"type": "vnc", "password": "<&'\">", "listen": _EVERYWHERE},
        {"type": "spice", "password": "spicy"},
    ]
    vm = host.launch(legacy_spec(tmp_path, graphics=graphics))
    address, port = server_of(vm)
    server = ("127.0.0.1", port)
    assert address == _EVERYWHERE
    assert f"00000000:{port:04X}" in listening(private_host)
    assert not let_in(host, server, "wrong")
    assert let_in(host, server, "<&'\">")
    by_spice = server_of(vm, "spice")
    assert by_spice[0] == "127.0.0.1"
    assert f"0100007F:{by_spice[1]:04X}" in listening(private_host)
    assert f"00000000:{by_spice[1]:04X}" not in listening(private_host)
    assert not let_in_by_spice(host, by_spice, "wrong")
    assert let_in_by_spice(host, by_spice, "spicy")
    assert [display.password for display in vm.screen.displays()] == [True, True]
    for xml in (vm.xml(), vm.xml(inactive=True)):
        assert "spicy" not in xml
        assert "&lt;&amp;" not in xml
        assert "passwd" not in xml

    with pytest.raises(vmctl.UsageError, match="vnc and spice"):
        vm.screen.set_password("other")
    vm.screen.set_password("other", type="vnc")
    assert not let_in(host, server, "<&'\">")
    assert let_in(host, server, "other")
    assert let_in_by_spice(host, by_spice, "spicy")
    vm.screen.set_password("spicier", type="spice")
    assert not let_in_by_spice(host, by_spice, "spicy")
    assert let_in_by_spice(host, by_spice, "spicier")
    vm.screen.set_password("brief", type="vnc", valid_for=2)
    assert let_in(host, server, "brief")
    expired = Signal().wait_for(
        lambda: True if not let_in(host, server, "brief") else None,
        deadline=time.monotonic() + 20,
    )
    assert expired
    vm.screen.set_password("lasting", type="vnc")
    assert let_in(host, server, "lasting")

    # What was set is there at the next start.
    vm.stop(force=True, timeout=0)
    vm.screen.set_password("asleep", type="vnc")
    with pytest.raises(vmctl.WrongStateError):
        vm.screen.forward(type="vnc")
    vm.start()
    server = ("127.0.0.1", server_of(vm)[1])
    assert let_in(host, server, "asleep")
    assert let_in_by_spice(host, server_of(vm, "spice"), "spicier")
    assert [display.password for display in vm.screen.displays()] == [True, True]
    vm.delete()


def test_a_way_to_a_display_of_a_private_host(host: vmctl.Host, old: vmctl.VM) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with old.screen.forward() as relay:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as connection:
                assert Viewer(connection).log_in(None)
        left_open = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
        assert Viewer(left_open).security == {_NONE}
        with pytest.raises(vmctl.ConflictError):
            old.screen.forward(relay.port)
    left_open.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", relay.port), timeout=10)
    gone = Signal().wait_for(
        lambda: {thread.name for thread in threading.enumerate()} <= before or None,
        deadline=time.monotonic() + 10,
        recheck=0.05,
    )
    assert gone


def test_by_the_command_line(
    private_host: private.PrivateHost, host: vmctl.Host, old: vmctl.VM
) -> None:
    command = [sys.executable, "-m", "vmctl.cli.main", "display", old.name]
    environment = {**os.environ, "VMCTL_URI": f"private:{private_host.name}"}

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *words],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    _address, port = server_of(old)
    assert run().stdout == f"vnc://127.0.0.1:{port}\n"
    with subprocess.Popen(
        [*command, "--forward", "0"], env=environment, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        own = int(client.stdout.readline().strip().removeprefix("vnc://127.0.0.1:"))
        with socket.create_connection(("127.0.0.1", own), timeout=10) as connection:
            assert Viewer(connection).log_in(None)
        client.send_signal(signal.SIGINT)
        assert client.wait(30) == 0

    old.stop(force=True, timeout=0)
    assert run("--set-password", stdin="s3cret\n").stdout == ""
    (found,) = json.loads(run("-f", "json").stdout)
    assert found == {
        "type": "vnc", "address": "127.0.0.1", "port": None, "tls_port": None,
        "password": True, "uri": "",
    }  # fmt: skip
    old.start()
    assert not let_in(host, server_of(old), "wrong")
    assert let_in(host, server_of(old), "s3cret")
    # The display of a machine that runs goes on asking for it.
    run("--remove-password")
    assert let_in(host, server_of(old), "s3cret")
    old.stop(force=True, timeout=0)
    old.start()
    assert let_in(host, server_of(old), None)
