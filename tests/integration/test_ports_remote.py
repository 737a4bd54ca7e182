"""Ports of a host that is reached by SSH: a server of the tests' own, in a network of its own."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces"),
]

# Run in a mount and a network namespace of its own, with a folder for keys.
_INSIDE = """
import contextlib, json, os, pwd, socket, subprocess, sys, time
from pathlib import Path
from vmctl.guest import port_relays
from vmctl.guest.netns import do_in
from vmctl.guest.reach import Reach
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.uri import HostAddress

folder, mac = Path(sys.argv[1]), "52:54:00:aa:bb:cc"

def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout

run("ip", "link", "set", "lo", "up")
ssh_folder = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
run("mount", "-t", "tmpfs", "-o", "mode=0700", "none", str(ssh_folder))
run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "client"))
(ssh_folder / "authorized_keys").write_text((folder / "client.pub").read_text())
(ssh_folder / "authorized_keys").chmod(0o600)
made = run("dropbearkey", "-t", "ed25519", "-f", str(folder / "host"))
public = next(line for line in made.splitlines() if line.startswith("ssh-ed25519 ")).split()
(ssh_folder / "known_hosts").write_text(f"[127.0.0.1]:2200 {public[0]} {public[1]}\\n")
(ssh_folder / "config").write_text(
    "Host hyper\\n  HostName 127.0.0.1\\n  Port 2200\\n  User root\\n"
    f"  IdentityFile {folder}/client\\n  StrictHostKeyChecking yes\\n"
)
server = subprocess.Popen(
    ["dropbear", "-F", "-E", "-s", "-p", "127.0.0.1:2200", "-r", str(folder / "host"),
     "-P", str(folder / "pid")], stderr=subprocess.DEVNULL,
)
guest = subprocess.Popen(
    ["unshare", "--net", "sh", "-c", "echo; exec cat"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)

def reaches():
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 2200), 1):
        return True

def refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True

def until(look):
    return Signal().wait_for(look, deadline=time.monotonic() + 20, recheck=0.05)

try:
    guest.stdout.readline()
    inner = f"/proc/{guest.pid}/ns/net"
    run("ip", "link", "add", "vp0", "address", "fe" + mac[2:], "type", "veth",
        "peer", "name", "vp1", "address", mac)
    run("ip", "link", "set", "vp1", "netns", str(guest.pid))
    run("ip", "addr", "add", "10.99.0.1/24", "dev", "vp0")
    run("ip", "link", "set", "vp0", "up")
    run("nsenter", f"--net={inner}", "ip", "addr", "add", "10.99.0.2/24", "dev", "vp1")
    run("nsenter", f"--net={inner}", "ip", "link", "set", "vp1", "up")
    assert until(reaches)
    host = Reach(HostAddress(uri="", name="hyper", ssh_host="hyper"))

    def ask(command):
        asked = {
            "command": command, "uuid": "u", "protocol": "tcp", "address": "127.0.0.1",
            "port": 8140, "guest_port": 7, "device": "vp0", "mac": mac,
            "targets": ["10.99.0.2"], "hint": "", "subnets": ["10.99.0.0/24"],
        }
        done = host.run_program(port_relays.program(asked), "vmctl-port", "u", timeout=30)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def exchange():
        with do_in(Path(inner), lambda: socket.create_server(("10.99.0.2", 7))) as listener:
            with socket.create_connection(("127.0.0.1", 8140), 20) as client:
                end, _address = listener.accept()
                with end:
                    end.sendall(b"hello")
                return client.recv(10).decode()

    found = {"opened": ask("open"), "again": ask("open"), "said": exchange()}
    found["ports"] = len(ask("list")["ports"])
    found["closed"] = [ask("close"), ask("close"), refused(8140)]
    found["reopened"] = ask("open")
    run("ip", "link", "del", "vp0")
    found["gone"] = until(lambda: refused(8140))
    server.terminate()
    server.wait()
    try:
        ask("list")
    except OSError as error:
        found["no way"] = "refused" in str(error)
    print(json.dumps(found))
finally:
    server.terminate()
    server.wait()
    guest.stdin.close()
    guest.wait()
"""


@pytest.fixture
def ssh_folder() -> Iterator[None]:
    """See that there is a ``~/.ssh`` to mount over, and leave none where there was none."""
    folder = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
    made = not folder.exists()
    if made:
        folder.mkdir(mode=0o700)
    yield
    if made:
        folder.rmdir()


def test_a_port_of_a_remote_host(ssh_folder: None, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["unshare", "--mount", "--net", sys.executable, "-c", _INSIDE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "opened": {"opened": True},
        "again": {"opened": False},
        "said": "hello",
        "ports": 1,
        "closed": [{"closed": True}, {"closed": False}, True],
        "reopened": {"opened": True},
        # The session that opened it is long over; what ends it is that the guest's device goes.
        "gone": True,
        "no way": True,
    }
