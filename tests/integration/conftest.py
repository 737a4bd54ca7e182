"""A host of the tests' own, images for its guests, and the check that nothing is left on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import Scheduling

import vmctl
from vmctl.hypervisor import private
from vmctl.hypervisor.connection import outlasting

from . import scheduling
from .legacy_guest import legacy_spec

_ROOT = Path(__file__).resolve().parents[2]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Take a schedule of our own in the place of one file after the other."""
    by_file = config.getvalue("dist") == "loadfile"
    return scheduling.Pieces(config, log) if by_file else None


@pytest.hookimpl
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of this folder into the order in which they are run, behind all others."""
    here = Path(__file__).parent
    ours = [item for item in items if item.path.parent == here]
    scheduling.arrange(ours)
    items[:] = [item for item in items if item.path.parent != here] + ours


@pytest.fixture(scope="session")
def client_home() -> Iterator[Path]:
    """Keep the tests' state, caches and keys apart from the user's."""
    # Not pytest's own folder: the path of a socket has 107 bytes at most.
    home = Path(tempfile.mkdtemp(prefix="vmctl-t-", dir="/tmp"))
    names = {
        "VMCTL_STATE_HOME": home / "s",
        "XDG_DATA_HOME": home / "data",
        "XDG_CACHE_HOME": home / "cache",
        "XDG_CONFIG_HOME": home / "config",
    }
    before = {name: os.environ.get(name) for name in names}
    image_cache = _image_cache()
    os.environ.update({name: str(path) for name, path in names.items()})
    os.environ["VMCTL_IMAGE_CACHE"] = image_cache
    try:
        yield home
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(home, ignore_errors=True)


def _image_cache() -> str:
    """Return the cache of guest images, which lies outside the tests' own folders."""
    if given := os.environ.get("VMCTL_IMAGE_CACHE"):
        return given
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return str(Path(cache).expanduser() / "vmctl" / "guest-images")


@pytest.fixture(scope="session")
def private_host(client_home: Path) -> Iterator[private.PrivateHost]:
    """A private host that ends with the tests, even if they are killed."""
    host = private.start(f"t{os.getpid()}", tether=True)
    try:
        yield host
    finally:
        private.stop(host.name, force=True)


@pytest.fixture(scope="session")
def host(private_host: private.PrivateHost) -> Iterator[vmctl.Host]:
    with vmctl.connect(f"private:{private_host.name}") as connection:
        yield connection


def _guest_image(name: str) -> str:
    done = subprocess.run(
        [str(_ROOT / "scripts" / "guest-image"), name],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def micro_image(client_home: Path) -> str:
    return _guest_image("micro")


@pytest.fixture(scope="session")
def debian_image(client_home: Path) -> str:
    return _guest_image("debian-12")


def pool_volumes(host: vmctl.Host) -> set[str]:
    """Return what lies in the pool, the host's own view of the folder."""
    pool = host._connection.raw.storagePoolLookupByName("default")
    pool.refresh(0)
    return set(pool.listVolumes())


HostState = tuple[set[str], set[str], set[str]]


def snapshot_of_host(host: vmctl.Host) -> HostState:
    """Return all that a launch may change on a host: machines, volumes, networks."""
    raw = host._connection.raw
    return (
        {domain.name() for domain in raw.listAllDomains()},
        pool_volumes(host),
        {f"{net.name()} {net.isActive()}" for net in raw.listAllNetworks()},
    )


@pytest.fixture
def nothing_left(host: vmctl.Host) -> Iterator[None]:
    """Check that a test leaves the host as it found it, but for images that are shared."""
    machines, volumes, networks = snapshot_of_host(host)
    yield
    machines_after, volumes_after, networks_after = snapshot_of_host(host)
    left = {name for name in volumes_after - volumes if not name.startswith("sha256-")}
    for name in machines_after - machines:
        host.get(name).delete()
    assert machines_after == machines
    assert left == set()
    assert networks_after == networks


@pytest.fixture
def idle_network(host: vmctl.Host) -> Iterator[str]:
    """The NAT network, stopped while the test runs."""
    network = host._connection.raw.networkLookupByName("default")
    network.destroy()
    try:
        yield network.name()
    finally:
        if not network.isActive():
            network.create()


SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def make_spec(micro_image: str) -> Callable[..., vmctl.VMSpec]:
    """Return a maker of specs for the micro guest, each with a name of its own."""

    def make(**fields: object) -> vmctl.VMSpec:
        given = {
            "name": f"m{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "192MiB",
            "nics": [{"user": True}],
        } | fields
        return vmctl.VMSpec.model_validate(given)

    return make


@pytest.fixture(scope="module")
def shared_vm(host: vmctl.Host, micro_image: str) -> Iterator[vmctl.VM]:
    """One running micro guest for the tests of a module that leave it as it is."""
    spec = vmctl.VMSpec.model_validate(
        {
            "name": f"s{uuid.uuid4().hex[:8]}",
            "image": micro_image,
            "memory": "192MiB",
            "nics": [{"user": True}],
            "labels": {"role": "test"},
            "cloud_init": {
                "hostname": "shared-guest",
                "users": [{"name": "admin", "sudo": "ALL=(ALL) NOPASSWD:ALL"}],
                "write_files": [{"path": "/etc/motto", "content": "semper eadem\n"}],
                "runcmd": ["echo done > /var/lib/ran"],
            },
        }
    )
    vm = host.launch(spec)
    try:
        yield vm
    finally:
        vm.delete()


@pytest.fixture(scope="module")
def legacy_vm(host: vmctl.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vmctl.VM]:
    """One guest that has a keyboard, a screen and a serial port, and nothing else."""
    vm = host.launch(legacy_spec(tmp_path_factory.mktemp("legacy"), graphics=["vnc"]))
    try:
        yield vm
    finally:
        vm.delete()


@pytest.fixture
def old(legacy_vm: vmctl.VM) -> Iterator[vmctl.VM]:
    """Return that guest, running, with nobody of this process at its console."""
    legacy_vm.start()
    yield legacy_vm
    legacy_vm.console.close()


@pytest.fixture
def small_pool(host: vmctl.Host, private_host: private.PrivateHost) -> Iterator[str]:
    """A pool on a file system of a few MiB, inside the private host's own mount namespace."""
    folder = "/var/lib/libvirt/small"
    enter = enter_host(private_host)
    subprocess.run([*enter, "mkdir", "-p", folder], check=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0711", "small", folder]
    subprocess.run([*enter, *mount], check=True)
    raw = host._connection.raw
    pool = raw.storagePoolDefineXML(
        f"<pool type='dir'><name>small</name><target><path>{folder}</path></target></pool>"
    )
    pool.create(0)
    try:
        yield "small"
    finally:
        pool.refresh(0)
        left = pool.listVolumes()
        pool.destroy()
        pool.undefine()
        subprocess.run([*enter, "umount", folder], check=True)
        subprocess.run([*enter, "rmdir", folder], check=True)
    assert left == []


def enter_host(private_host: private.PrivateHost) -> list[str]:
    """Return what runs a command in the mount namespace of a private host."""
    namespace = private_host.network_namespace
    assert namespace is not None
    nsenter = shutil.which("nsenter")
    assert nsenter is not None
    return [nsenter, "--mount", "--target", namespace.parts[2]]


def libvirts_state(host: vmctl.Host, vm: vmctl.VM) -> int:
    """Return libvirt's own answer, past vmctl."""
    state: int = host._connection.raw.lookupByUUIDString(vm.uuid).state()[0]
    return state


def owned_in(folder: Path, pattern: str, uid: int) -> list[Path]:
    """Return a user's entries of a folder, in which others make and remove theirs meanwhile."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_uid == uid:
                found.append(path)
    return found


def libvirtd_pid(private_host: private.PrivateHost) -> int:
    """Return the process of a private host's libvirtd, which is started again when it ends."""
    return process_of(private_host, "libvirtd")


def process_of(private_host: private.PrivateHost, program: str, *, of: str = "") -> int:
    """Return the process of a private host that runs a program, with a word in its arguments."""
    namespace = private_host.network_namespace
    assert namespace is not None
    init = namespace.parts[2]
    children = Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
    (found,) = [pid for pid in children if _told(pid, "comm") == program and of in _told(pid)]
    return int(found)


def forget_lost(private_host: private.PrivateHost, vm: vmctl.VM) -> None:
    """Do what users are told to do where libvirt has lost a backup: the machine is off then."""
    vm.stop(timeout=0, force=True)
    os.kill(libvirtd_pid(private_host), signal.SIGKILL)
    outlasting(lambda: vm.state)


def _told(pid: str, file: str = "cmdline") -> str:
    return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace").strip()


def until_agent(vm: vmctl.VM, seconds: float = 120.0) -> str:
    """Return the guest's boot ID as soon as its agent answers.

    As long as nothing has opened its port, each try fails at once: one after the other they would
    take a whole core from the guest that boots.
    """
    command = "cat /proc/sys/kernel/random/boot_id"

    def ask() -> str:
        return vm.run(command, check=True, timeout=60, via="agent").stdout

    def answer() -> str | None:
        try:
            return ask()
        except (vmctl.GuestUnreachableError, vmctl.WaitTimeoutError):
            return None

    with vm._domain.connection.events.listening(vm.uuid) as heard:
        said = heard.wait_for(answer, deadline=time.monotonic() + seconds, recheck=0.5)
    return ask() if said is None else said


def in_a_moment(vm: vmctl.VM, command: str) -> None:
    """Let a guest do what ends its agent, a moment after that has answered.

    On a busy machine the moment may be over before the answer is asked for. Whether it was done is
    for the caller to see.
    """
    with contextlib.suppress(vmctl.GuestUnreachableError):
        vm.run(f"(usleep 300000; {command}) </dev/null >/dev/null 2>&1 &", check=True)


def boots(vm: vmctl.VM) -> int:
    """Return how often the micro guest came up so far, by its console."""
    return vm.console_log().count("micro: ready")


def until_booted(host: vmctl.Host, vm: vmctl.VM, count: int, seconds: float = 120.0) -> None:
    """Wait until the micro guest came up so often.

    After a reset that it did not see coming, its agent's port may stay closed for QEMU 7.2, so
    that the console is what tells.
    """
    with host._connection.events.listening(vm.uuid) as heard:
        deadline = time.monotonic() + seconds
        assert heard.wait_for(lambda: True if boots(vm) >= count else None, deadline=deadline), (
            vm.console_log()[-500:]
        )
