"""Storage servers of the tests' own: iSCSI by tgtd, NBD by nbdkit, and a file system in a file.

They listen on loopback in the network namespace of the private host, where its guests' QEMU is too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmctl.guest.netns import connect_in
from vmctl.hypervisor.events import Signal

IQN = "iqn.2025-01.org.example:vms"
INITIATOR = "iqn.2025-01.org.example:node1"
_SECONDS = 30.0


def _inside(namespace: Path) -> list[str]:
    return ["nsenter", f"--net={namespace}"]


def free_port(namespace: Path) -> int:
    """Return a port that nobody listens on in the namespace."""
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    done = subprocess.run(
        [*_inside(namespace), "python3", "-c", code], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def _await_port(namespace: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    def answers() -> bool | None:
        assert server.poll() is None, "the server ended"
        try:
            connect_in(namespace, "127.0.0.1", port, 1.0).close()
        except OSError:
            return None
        return True

    assert Signal().wait_for(answers, deadline=time.monotonic() + _SECONDS, recheck=0.05)


@contextmanager
def iscsi(namespace: Path, folder: Path, luns: list[Path]) -> Iterator[int]:
    """Serve files as the LUNs 1, 2 ... of the target `IQN`; gives the port."""
    port = free_port(namespace)
    environment = {**os.environ, "TGT_IPC_SOCKET": str(folder / "control")}
    command = ["tgtd", "--foreground", "--iscsi", f"portal=127.0.0.1:{port}"]
    with (folder / "tgtd.log").open("wb") as log:
        server = subprocess.Popen([*_inside(namespace), *command], env=environment, stderr=log)
    try:
        _await_port(namespace, port, server)
        new, tid = ["tgtadm", "--lld", "iscsi", "--op", "new"], ["--tid", "1"]
        steps = [[*new, "--mode", "target", *tid, "-T", IQN]]
        steps += [
            [*new, "--mode", "logicalunit", *tid, "--lun", str(number), "-b", str(path)]
            for number, path in enumerate(luns, 1)
        ]
        steps += [
            ["tgtadm", "--lld", "iscsi", "--op", "bind", "--mode", "target", *tid, "-I", "ALL"]
        ]
        for step in steps:
            subprocess.run(step, env=environment, check=True, capture_output=True)
        yield port
    finally:
        # SIGTERM waits for its targets to be deleted; it has nothing that isn't in the files.
        server.kill()
        server.wait(timeout=_SECONDS)


@contextmanager
def nbd(
    namespace: Path, file: Path, *, export: str = "", unix: Path | None = None
) -> Iterator[int]:
    """Serve a file over NBD, on a port of loopback (which it gives) or on a UNIX socket."""
    port = 0 if unix is not None else free_port(namespace)
    where = ["-U", str(unix)] if unix is not None else ["-i", "127.0.0.1", "-p", str(port)]
    command = ["nbdkit", "-f", *where, "-e", export, "file", str(file)]
    server = subprocess.Popen([*_inside(namespace), *command])
    try:
        if unix is None:
            _await_port(namespace, port, server)
        else:
            _await_socket(unix, server)
        yield port
    finally:
        server.terminate()
        server.wait(timeout=_SECONDS)


def _await_socket(path: Path, server: subprocess.Popen[bytes]) -> None:
    def answers() -> bool | None:
        assert server.poll() is None, "the server ended"
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                return None
        return True

    assert Signal().wait_for(answers, deadline=time.monotonic() + _SECONDS, recheck=0.05)


@contextmanager
def loop_device(file: Path, size: int) -> Iterator[str]:
    """Give a loop device with an ext4 of that many bytes on it."""
    with file.open("wb") as handle:
        handle.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(file)], check=True)
    done = subprocess.run(
        ["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True
    )
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
