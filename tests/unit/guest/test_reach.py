"""Ways to a guest, as far as they can be tried without one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vmctl.errors import HostUnavailableError
from vmctl.guest import jump
from vmctl.guest.jump import JumpSocket, connect_through
from vmctl.guest.reach import Reach
from vmctl.hypervisor.uri import HostAddress

HOST = HostAddress(uri="qemu+ssh://node1/system", name="node1", ssh_host="node1")


def fake_ssh(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called ssh before the real one."""
    path = folder / "ssh"
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_connection_is_what_ssh_passes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys, os\nos.write(1, b'hello ' + ' '.join(sys.argv[1:]).encode() + b'\\n')\n"
        "os.write(1, os.read(0, 100))\nos.read(0, 1)\n"
    )
    fake_ssh(tmp_path, program, monkeypatch)
    host = HostAddress(
        uri="x", name="x", ssh_host="-node1", ssh_user="root", ssh_port=2222, ssh_keyfile="/k"
    )
    sock = connect_through(host, "192.0.2.1", 22, 5)
    said = sock.recv(4096).decode()
    assert "BatchMode=yes" in said
    assert said.endswith("-p 2222 -l root -i /k -W 192.0.2.1:22 -- -node1\n")
    assert "StrictHostKeyChecking" not in said
    sock.sendall(b"ping")
    assert sock.recv(100) == b"ping"
    sock.close()
    assert sock._process is not None
    assert sock._process.returncode is not None
    sock.close()


def test_an_address_of_version_6_and_no_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os, sys\nos.write(1, ' '.join(sys.argv).encode())\nsys.stdin.read()\n"
    fake_ssh(tmp_path, program, monkeypatch)
    host = HostAddress(uri="x", name="x", ssh_host="node1", ssh_verify=False)
    with connect_through(host, "2001:db8::1", 22, 5) as sock:
        said = sock.recv(4096).decode()
    assert "-o StrictHostKeyChecking=no -W [2001:db8::1]:22 -- node1" in said


def test_what_ssh_says_last_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys\nsys.exit('Warning: x\\nroot@node1: Permission denied (publickey).')\n"
    fake_ssh(tmp_path, program, monkeypatch)
    with pytest.raises(OSError, match=r"^root@node1: Permission denied \(publickey\)\.$"):
        connect_through(HOST, "192.0.2.1", 22, 5)


def test_an_ssh_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jump, "_END_SECONDS", 0.1)
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(1, b'1')"
    )
    made = JumpSocket([sys.executable, "-c", f"{deaf}; time.sleep(600)"])
    assert made.recv(1) == b"1"
    with pytest.raises(OSError, match="no answer within 0.1 s"):
        made.wait_for_first_byte(0.1)
    assert made._process is not None
    assert made._process.returncode == -signal.SIGKILL


def test_without_ssh_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        connect_through(HOST, "192.0.2.1", 22, 5)
    with pytest.raises(HostUnavailableError) as caught:
        Reach(HOST).check()
    assert "No such file" in caught.value.details


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys\nsys.stderr.write('node1: no route')\nsys.exit(255)\n", "node1: no route"),
        ("", ""),
        ("import sys\nsys.exit(1)\n", ""),
    ],
)
def test_the_way_to_a_remote_host_is_looked_at_beforehand(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ssh(tmp_path, program, monkeypatch)
    if not said:
        Reach(HOST).check()
        return
    with pytest.raises(HostUnavailableError, match="can't reach node1 by SSH") as caught:
        Reach(HOST).check()
    assert caught.value.details == said
    assert "ssh node1" in caught.value.hint


def test_a_local_host_is_connected_to_directly() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        local = Reach(HostAddress(uri="qemu:///system", name="x"))
        with local.open("127.0.0.1", server.getsockname()[1], timeout=5) as sock:
            assert sock.getpeername() == server.getsockname()


def test_neighbours_are_what_the_kernel_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "192.0.2.1        0x1         0x2         52:54:00:AA:bb:01     *        virbr0\n"
        "192.0.2.2        0x1         0x0         00:00:00:00:00:00     *        virbr0\n"
        "192.0.2.3        0x1         0x6         52:54:00:aa:bb:01     *        virbr0\n"
    )
    read: list[str] = []

    def read_text(path: Path, **_options: str) -> str:
        read.append(str(path))
        return table

    monkeypatch.setattr(Path, "read_text", read_text)
    expected = {"52:54:00:aa:bb:01": ["192.0.2.1", "192.0.2.3"]}
    assert Reach(HostAddress(uri="x", name="x")).neighbors() == expected
    inside = HostAddress(uri="x", name="x", network_namespace=Path("/proc/7/ns/net"))
    assert Reach(inside).neighbors() == expected
    assert read == ["/proc/self/net/arp", "/proc/7/net/arp"]
    assert Reach(HOST).neighbors() == {}


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")
def test_openssh_takes_these_options() -> None:
    done = subprocess.run(
        [
            "ssh",
            "-G",
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=30",
            "-W",
            "a:22",
            "--",
            "b",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "batchmode yes" in done.stdout
