"""Private hosts of root's, for real, and what must hold when something of one is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest

from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    NotFoundError,
)
from vmctl.hypervisor import private
from vmctl.hypervisor.private import preparation, programs
from vmctl.hypervisor.private.record import Record

from .conftest import owned_in

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces"),
]

ROOT = Path(__file__).parents[2]
NAMESPACES = ("mnt", "pid", "net", "uts", "ipc")
MACHINE = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")
GUEST = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices><console type='pty'><log file='{log}'/></console></devices>
</domain>
"""


def eventually(what: str, fact: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a fact that nobody reports; there is a deadline, and no other sleep in here."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def home() -> Iterator[Path]:
    """A state home; what a test left in it is ended, and the test has failed."""
    folder = Path(tempfile.mkdtemp(prefix="vmctl-t"))
    yield folder
    left = private.list_hosts(state_home=folder)
    for host in left:
        host.stop(force=True)
    shutil.rmtree(folder)
    assert not left


def listing() -> list[tuple[object, ...]]:
    """Return every file of the machine's libvirt, with what changes when it is touched."""
    found: list[tuple[object, ...]] = []
    for top in MACHINE:
        for path in (Path(top), *sorted(Path(top).rglob("*"))):
            status = path.lstat()
            found.append((path, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns))
    return found


def machine_state() -> dict[str, object]:
    iptables = shutil.which("iptables-save", path=programs.search_path())
    assert iptables is not None
    rules = subprocess.run([iptables], capture_output=True, text=True, check=False).stdout
    return {
        "libvirt": listing(),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "interfaces": sorted(Path("/sys/class/net").iterdir()),
        "cgroups": sorted(path for path, _, _ in os.walk("/sys/fs/cgroup")),
        "rules": [line for line in rules.splitlines() if not line.startswith("#")],
        # This user's: those of another one come and go beside these tests.
        "short": owned_in(Path("/tmp"), "vmctl-????????", os.geteuid()),
        "run": sorted(path.name for path in Path("/run").iterdir()),
    }


def namespaces_of(pid: int | str) -> set[str]:
    """Return the namespaces of a process that are not this process's, as ``kind:[inode]``."""
    found = set()
    for kind in NAMESPACES:
        with contextlib.suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found - {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in NAMESPACES}


def record_of(home: Path, name: str = "t") -> Record:
    record = Record.read(home / "hosts" / name / "host.json")
    assert record is not None
    assert record.init is not None
    assert record.supervisor is not None
    return record


def pid_of(home: Path, which: str, name: str = "t") -> int:
    return int(getattr(record_of(home, name), which).pid)


def nothing_left(namespaces: set[str]) -> bool:
    return not any(
        namespaces & namespaces_of(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
    )


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Any]:
    connection = libvirt.open(uri)
    try:
        yield connection
    finally:
        connection.close()


def run_guest(connection: Any, name: str = "g") -> Any:
    log = f"/var/log/libvirt/{name}.log"
    return connection.createXML(GUEST.format(name=name, log=log))


def child(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Run Python code, which has ``private``, with arguments."""
    script = f"import sys\nfrom pathlib import Path\nfrom vmctl.hypervisor import private\n{code}\n"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("network", ["own", "host"])
def test_a_host_lives_and_leaves_nothing(home: Path, network: private.Network) -> None:
    before = machine_state()
    host = private.start("t", state_home=home, network=network)
    assert (host.kind, host.network, host.running, host.warnings) == ("system", network, True, ())
    assert private.list_hosts(state_home=home) == [host]
    assert private.find("t", state_home=home) == host
    assert machine_state() == before
    namespaces = namespaces_of(pid_of(home, "init"))
    assert len(namespaces) == (5 if network == "own" else 4)
    with opened(host.uri) as connection:
        assert connection.getHostname() == "t"
        assert [pool.name() for pool in connection.listAllStoragePools()] == ["default"]
        pool = connection.storagePoolLookupByName("default")
        assert pool.isActive()
        assert pool.autostart()
        networks = connection.listAllNetworks()
        if network == "own":
            assert [(n.name(), n.isActive(), n.autostart()) for n in networks] == [
                ("default", 1, 1)
            ]
            assert host.network_namespace is not None
            assert str(host.network_namespace.readlink()) in namespaces
        else:
            assert networks == []
            assert host.network_namespace is None
        guest = run_guest(connection)
        assert guest.isActive()
        run_guest(connection, "g2")
        assert machine_state() == before
        guest.destroy()
        assert [domain.name() for domain in connection.listAllDomains()] == ["g2"]
    with pytest.raises(ConflictError, match=r"g2 \(running\)"):
        host.stop()
    assert host.running
    host.stop(force=True)
    assert not host.running
    assert nothing_left(namespaces)
    assert list(home.iterdir()) == []
    assert machine_state() == before
    with pytest.raises(NotFoundError):
        private.find("t", state_home=home)


def test_a_guest_that_is_off_keeps_its_host(home: Path) -> None:
    host = private.start("t", state_home=home, network="host")
    with opened(host.uri) as connection:
        guest = connection.defineXML(GUEST.format(name="off", log="/var/log/libvirt/off.log"))
        with pytest.raises(ConflictError, match=r"off \(off\)"):
            host.stop()
        guest.undefine()
    host.stop()


def test_a_second_start_finds_the_first(home: Path) -> None:
    host = private.start("t", state_home=home)
    assert private.start("t", state_home=home) == host
    assert private.start("t", state_home=home, network="own") == host
    with pytest.raises(ConflictError, match="network=own"):
        private.start("t", state_home=home, network="host")
    host.stop()


def test_two_hosts_know_nothing_of_each_other(home: Path) -> None:
    hosts = [private.start(name, state_home=home) for name in ("a", "b")]
    uuids = set()
    for host in hosts:
        with opened(host.uri) as connection:
            assert [domain.name() for domain in connection.listAllDomains()] == []
            run_guest(connection)
            uuids.add(connection.getCapabilities().split("<uuid>")[1].split("<")[0])
    assert uuids == {host.host_uuid for host in hosts}
    for host in hosts:
        host.stop(force=True)


def test_starts_at_once_are_one_start(home: Path) -> None:
    code = "print(private.start('t', state_home=Path(sys.argv[1])).host_uuid)"
    processes = [child(code, home) for _ in range(3)]
    outputs = {process.communicate(timeout=90)[0] for process in processes}
    assert {process.returncode for process in processes} == {0}
    assert outputs == {private.find("t", state_home=home).host_uuid + "\n"}
    with ThreadPoolExecutor(3) as pool:
        ends = [
            pool.submit(private.stop, "t", state_home=home, force=True).exception(timeout=60)
            for _ in range(3)
        ]
    assert ends.count(None) >= 1
    assert all(isinstance(end, NotFoundError) for end in ends if end)


def test_a_tethered_host_ends_with_its_starter(home: Path) -> None:
    code = """
print(private.start('t', state_home=Path(sys.argv[1]), tether=True).host_uuid, flush=True)
sys.stdin.read()
"""
    before = machine_state()
    with child(code, home) as starter:
        assert first_line(starter) == private.find("t", state_home=home).host_uuid
        with opened(private.find("t", state_home=home).uri) as connection:
            run_guest(connection)
        namespaces = namespaces_of(pid_of(home, "init"))
        starter.kill()
    eventually("processes have ended", lambda: nothing_left(namespaces))
    eventually("files are gone", lambda: not list(home.iterdir()))
    assert machine_state() == before


@pytest.mark.parametrize("which", ["supervisor", "init"])
def test_whatever_is_killed_everything_ends(home: Path, which: str) -> None:
    before = machine_state()
    host = private.start("t", state_home=home)
    with opened(host.uri) as connection:
        run_guest(connection)
    namespaces = namespaces_of(pid_of(home, "init"))
    os.kill(pid_of(home, which), signal.SIGKILL)
    eventually("processes have ended", lambda: nothing_left(namespaces))
    assert [found.running for found in private.list_hosts(state_home=home)] == [False]
    with pytest.raises(HostUnavailableError) as caught:
        private.find("t", state_home=home)
    assert caught.value.hint == "vmctl host start t"
    assert machine_state() == before
    again = private.start("t", state_home=home)
    assert again.running
    assert again.host_uuid != host.host_uuid
    os.kill(pid_of(home, which), signal.SIGKILL)
    eventually("it has ended", lambda: not again.running)
    again.stop()
    assert list(home.iterdir()) == []


def test_a_supervisor_that_is_told_to_end_cleans_up(home: Path) -> None:
    private.start("t", state_home=home)
    os.kill(pid_of(home, "supervisor"), signal.SIGTERM)
    eventually("files are gone", lambda: not list(home.iterdir()))


def test_guests_outlive_their_libvirtd(home: Path) -> None:
    host = private.start("t", state_home=home)
    with opened(host.uri) as connection:
        run_guest(connection)
    init = pid_of(home, "init")
    children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    (daemon,) = (
        entry
        for entry in Path("/proc").iterdir()
        if entry.name in children and (entry / "comm").read_text() == "libvirtd\n"
    )
    os.kill(int(daemon.name), signal.SIGKILL)

    def guests() -> list[str]:
        with contextlib.suppress(HostUnavailableError):
            return preparation.guests_of(host.uri)
        return []

    eventually("libvirtd answers, and knows the guest", lambda: guests() == ["g (running)"])
    host.stop(force=True)


@pytest.mark.parametrize(
    "point", ["hosts/t", "hosts/t/home", "hosts/t/libvirtd.log", "hosts/t/run/libvirt/libvirt-sock"]
)
def test_a_start_that_is_killed_leaves_nothing_running(home: Path, point: str) -> None:
    before = machine_state()
    with child("private.start('t', state_home=Path(sys.argv[1]))", home) as starter:
        eventually(f"{point} is there", (home / point).exists)
        starter.kill()
    assert starter.returncode == -signal.SIGKILL
    private.start("t", state_home=home).stop()
    assert list(home.iterdir()) == []
    assert machine_state() == before


def test_a_start_that_is_interrupted_undoes_itself(home: Path) -> None:
    with child("private.start('t', state_home=Path(sys.argv[1]))", home) as starter:
        eventually("libvirtd is up", (home / "hosts/t/run/libvirt/libvirt-sock").exists)
        starter.send_signal(signal.SIGINT)
    assert starter.returncode == -signal.SIGINT
    assert list(home.iterdir()) == []


def test_a_libvirtd_that_fails_is_quoted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = home / "bin" / "libvirtd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho it is all wrong >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    with pytest.raises(HostUnavailableError) as caught:
        private.start("t", state_home=home)
    assert "it is all wrong" in caught.value.details
    assert "ended with 3" in caught.value.details
    assert list(home.iterdir()) == [broken.parent]


def test_a_libvirtd_that_hangs_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = home / "bin" / "libvirtd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexec sleep 1000\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("vmctl.hypervisor.private.host._START_SECONDS", 1.5)
    with pytest.raises(HostUnavailableError, match="does not open its socket"):
        private.start("t", state_home=home)
    assert list(home.iterdir()) == [broken.parent]


def test_a_host_without_dnsmasq_starts_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = programs.find
    monkeypatch.setattr(programs, "find", lambda name: None if name == "dnsmasq" else find(name))
    host = private.start("t", state_home=home)
    assert len(host.warnings) == 1
    assert "dnsmasq-base" in host.warnings[0]
    assert private.find("t", state_home=home).warnings == host.warnings
    with opened(host.uri) as connection:
        assert connection.listAllNetworks() == []
    host.stop()


def test_root_without_the_capability_gets_one_sentence(home: Path) -> None:
    code = """
from vmctl.errors import PermissionDeniedError
try:
    private.start('t', state_home=Path(sys.argv[1]))
except PermissionDeniedError as error:
    print(error.hint)
"""
    with child(code, home, prefix=("setpriv", "--bounding-set=-sys_admin")) as process:
        assert "CAP_SYS_ADMIN" in first_line(process)
    assert process.returncode == 0
    assert list(home.iterdir()) == []
