"""Ports that lead into a guest, other programs' way into it, and what all of that leaves behind."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import vmctl
from vmctl.errors import VmctlError
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

pytestmark = pytest.mark.timeout(300)

_VMCTL = [sys.executable, "-m", "vmctl.cli.main"]


def uri(host: private.PrivateHost) -> dict[str, str]:
    return {**os.environ, "VMCTL_URI": f"private:{host.name}"}


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def _serve_echo(vm: vmctl.VM, port: int) -> None:
    """Say back on a port in the guest what comes on its one connection, to its end."""
    vm.run(
        f"nc -l -p {port} -e cat </dev/null >/dev/null 2>&1 & "
        f"until netstat -ltn | grep -q :{port}; do usleep 50000; done",
        check=True,
        timeout=60,
    )


def test_a_forward(shared_vm: vmctl.VM) -> None:
    content = os.urandom(200_000)
    _serve_echo(shared_vm, 7007)
    _serve_echo(shared_vm, 7008)
    with (
        shared_vm.forward(7007) as port,
        shared_vm.forward(7008) as other,
        _connect(port) as one,
        _connect(other) as two,
    ):
        # Side by side; and what is sent comes back whole after this side's end.
        two.sendall(b"second\n")
        assert two.recv(100) == b"second\n"

        def send() -> None:
            one.sendall(content)
            one.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        back = b""
        while piece := one.recv(65536):
            back += piece
        sender.join()
        assert back == content
        # It listens on loopback only.
        assert two.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        _connect(port)


def test_the_end_of_a_forward_ends_its_connections(shared_vm: vmctl.VM) -> None:
    with shared_vm.forward(22, guest_host="localhost") as port:
        left = _connect(port)
        assert left.recv(4) == b"SSH-"
    with left:
        while left.recv(4096):
            pass


def test_what_a_forward_can_not_do(shared_vm: vmctl.VM) -> None:
    refused: list[VmctlError] = []
    with shared_vm.forward(9, on_refusal=refused.append) as port:
        with _connect(port) as client:
            assert client.recv(1) == b""
        assert isinstance(refused[0], vmctl.ConflictError)
        assert refused[0].hint
        with (
            pytest.raises(vmctl.ConflictError, match="in use"),
            shared_vm.forward(22, local_port=port),
        ):
            pass
    with pytest.raises(vmctl.UsageError), shared_vm.forward(22, address="192.0.2.1"):
        pass


def test_forward_on_the_command_line(
    private_host: private.PrivateHost, shared_vm: vmctl.VM
) -> None:
    client = subprocess.Popen(
        [*_VMCTL, "-f", "json", "forward", shared_vm.name, "22", "localhost:22"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=uri(private_host),
    )
    with client:
        assert client.stdout is not None
        said = ""
        while not said.endswith("]\n"):
            said += client.stdout.readline()
        one, two = json.loads(said)
        assert (one["guest_port"], two["guest_host"]) == (22, "localhost")
        for entry in (one, two):
            with _connect(entry["port"]) as connection:
                assert connection.recv(4) == b"SSH-"
        client.send_signal(signal.SIGINT)
        assert client.wait(60) == 0
        assert client.stderr is not None
        assert client.stderr.read() == "closed\n"


def test_openssh_by_the_lines_of_ssh_config(
    private_host: private.PrivateHost, shared_vm: vmctl.VM, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*_VMCTL, "ssh-config", shared_vm.name],
        check=True,
        capture_output=True,
        text=True,
        env=uri(private_host),
    )
    assert done.stdout == shared_vm.ssh_config()
    config = tmp_path / "config"
    config.write_text(done.stdout)

    def openssh(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        told = subprocess.run(
            [words[0], "-F", str(config), *words[1:]],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            env=uri(private_host),
        )
        assert told.returncode == code, told.stderr
        return told

    name = shared_vm.name
    assert openssh("ssh", name, "id -un; exit 7", code=7).stdout == "admin\n"
    (tmp_path / "content").write_bytes(os.urandom(100_000))
    openssh("scp", "-q", str(tmp_path / "content"), f"{name}:/tmp/content")
    openssh("scp", "-q", f"{name}:/tmp/content", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "content").read_bytes()
    # Whoever has another host key is refused, by ssh itself.
    other = shared_vm.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[1]
    changed = other[:-8] + ("AAAAAAAA" if other[-8:] != "AAAAAAAA" else "BBBBBBBB")
    config.write_text(done.stdout.replace(other, changed))
    assert "verification failed" in openssh("ssh", name, "true", code=255).stderr


def _held() -> dict[str, int]:
    """Return what this process holds: threads, descriptors, processes."""
    own = Path("/proc/self")
    return {
        "threads": threading.active_count(),
        "descriptors": len(list((own / "fd").iterdir())),
        "processes": sum(
            len((task / "children").read_text().split()) for task in (own / "task").iterdir()
        ),
    }


@pytest.mark.timeout(600)
def test_nothing_is_held_after_hundreds_of_calls(
    private_host: private.PrivateHost, shared_vm: vmctl.VM, tmp_path: Path
) -> None:
    def few(host: vmctl.Host, times: int) -> None:
        vm = host.get(shared_vm.name)
        for number in range(times):
            # Ten calls a round, each with a channel of its own.
            assert vm.run("cat", stdin=io.BytesIO(b"x")).stdout == "x"
            assert vm.run("exit 3", env={"A": str(number)}).exit_status == 3
            vm.copy_to(io.BytesIO(b"y"), "/tmp/y")
            vm.copy_from("/tmp/y", tmp_path / "y")
            with vm.forward(22) as port:
                for _ in range(5):
                    with _connect(port) as client:
                        assert client.recv(4) == b"SSH-"
            assert vm.run("true", via="agent").exit_status == 0

    # What is loaded and made once, whatever comes after.
    with vmctl.connect(f"private:{private_host.name}") as host:
        few(host, 1)
    before = _held()
    with vmctl.connect(f"private:{private_host.name}") as host:
        few(host, 20)
        during = _held()
    # One connection, and what belongs to it: nothing grows with the number of calls.
    assert during["threads"] - before["threads"] <= 3
    assert during["descriptors"] - before["descriptors"] <= 8
    # A thread of the first round may just have been ending when it was counted.
    assert Signal().wait_for(
        lambda: True if _none_more(_held(), before) else None,
        deadline=time.monotonic() + 20,
        recheck=0.1,
    ), (before, _held())


def _none_more(now: dict[str, int], before: dict[str, int]) -> bool:
    return all(count <= before[kind] for kind, count in now.items())
