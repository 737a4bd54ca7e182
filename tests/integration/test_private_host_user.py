"""Private hosts of a user without any rights, whom these tests make."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket as socket_module
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from vmctl.hypervisor import private

from .conftest import owned_in

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user"),
]

ROOT = Path(__file__).parents[2]
UID = 64321
User = Callable[..., subprocess.Popen[str]]

# The name and the channel make the longest socket paths that there are.
SESSION = """
import sys
import libvirt
from vmctl.errors import UnsupportedError
from vmctl.hypervisor import private

GUEST = '''
<domain type='qemu'><name>a-guest-with-a-rather-long-name</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <console type='pty'><log file='{log}'/></console>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>
'''
host = private.start('t', tether='tether' in sys.argv)
assert private.list_hosts() == [host] == [private.find('t')] == [private.start('t')]
assert (host.kind, host.network, host.network_namespace) == ('session', 'host', None)
assert host.warnings == ()
connection = libvirt.open(host.uri)
assert connection.storagePoolLookupByName('default').isActive()
assert connection.listAllNetworks() == []
guest = connection.createXML(GUEST.format(log=host.state_dir / 'guest.log'))
assert guest.isActive()
guest.destroy()
guest = connection.createXML(GUEST.format(log=host.state_dir / 'guest.log'))
assert (host.state_dir / 'guest.log').exists()
connection.close()
try:
    private.start('u', network='own')
except UnsupportedError:
    pass
print(host._record.supervisor.pid, host._record.init.pid, host.state_dir, flush=True)
sys.stdin.read()
if 'again' in sys.argv:
    assert not host.running
    host = private.start('t')
host.stop(force=True)
assert not private.list_hosts()
print('stopped', flush=True)
"""

# A user's whole way: a host, a guest on it, a command in the guest, a snapshot, and all of it gone.
LAUNCH = """
import shutil, sys
from pathlib import Path
import vmctl
from vmctl import hosts

hosts.start_host('t')
with vmctl.connect('private:t') as host:
    assert not host.facts.privileged
    spec = vmctl.VMSpec.model_validate({'name': 'mine', 'image': sys.argv[1], 'memory': '192MiB'})
    vm = host.launch(spec)
    assert vm.info().nics[0].type == 'user'
    assert vm.run('sudo -n id -u', check=True).stdout == '0\\n'
    vm.snapshots.create('clean')
    vm.run('sudo -n rm /etc/hostname', check=True)
    vm.snapshots.revert('clean')
    print(vm.run('cat /etc/hostname', check=True).stdout, end='')
    assert 'micro: ready' in vm.console_log()
    vm.delete()
    assert list(host.list()) == []
hosts.stop_host('t')
for kept in ('.local/share/vmctl', '.cache/vmctl'):
    shutil.rmtree(Path.home() / kept, ignore_errors=True)
"""


def eventually(what: str, fact: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a fact that nobody reports; there is a deadline, and no other sleep in here."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def processes() -> list[int]:
    """Return the processes of the user that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == UID:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append(int(entry.name))
    return found


def machine_state() -> dict[str, object]:
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "interfaces": sorted(Path("/sys/class/net").iterdir()),
        "files": owned_in(Path("/tmp"), "*", UID),
        "processes": processes(),
    }


@pytest.fixture
def user() -> Iterator[User]:
    """Run Python code as a user.

    The entry in /etc/passwd, which libvirt insists on, and the interpreter and the code, which
    may lie where users may not read, are mounted for the user's processes only.
    """
    top = Path(tempfile.mkdtemp(prefix="vmctl-u"))
    top.chmod(0o755)
    mounts = {
        top / "python": Path(sys.base_prefix),
        top / "packages": Path(sysconfig.get_path("purelib")),
        top / "code": ROOT,
        Path("/etc/passwd"): top / "passwd",
        Path("/etc/group"): top / "group",
    }
    for name in ("home", "python", "packages", "code"):
        (top / name).mkdir()
    os.chown(top / "home", UID, UID)
    entries = {"passwd": f"vmctl-test:x:{UID}:{UID}::{top}/home:/bin/sh", "group": f"g:x:{UID}:"}
    for name, entry in entries.items():
        (top / name).write_text(Path("/etc", name).read_text() + entry + "\n")
    steps = [f"mount --bind '{source}' '{target}'" for target, source in mounts.items()]
    steps.append(f'exec setpriv --reuid={UID} --regid={UID} --clear-groups "$@"')
    python = f"python/bin/python{sys.version_info.major}.{sys.version_info.minor}"

    def run(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *("/usr/bin/unshare", "--mount", "sh", "-ec", " && ".join(steps), "sh"),
                *(str(top / python), "-c", code, *arguments),
            ],
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(top / "home"),
                "PYTHONPATH": f"{top}/code:{top}/packages",
                "PYTHONDONTWRITEBYTECODE": "1",
                **environment,
            },
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    yield run
    left = processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    files = [path for path in (top / "home").rglob("*") if not path.is_dir()]
    shutil.rmtree(top)
    assert not left
    assert not files


@pytest.mark.parametrize("containment", ["auto", "subreaper"])
@pytest.mark.parametrize("end", ["stop", "tether", "supervisor", "init"])
def test_a_user_s_host(user: User, containment: str, end: str) -> None:
    before = machine_state()
    arguments = {"stop": [], "tether": ["tether"]}.get(end, ["again"])
    with user(SESSION, *arguments, VMCTL_PRIVATE_CONTAINMENT=containment) as client:
        assert client.stdout is not None
        supervisor, init, state_dir = client.stdout.readline().split()
        own = Path("/proc/self/ns/pid").readlink()
        contained = Path(f"/proc/{init}/ns/pid").readlink() != own
        assert contained == (containment == "auto")
        if end == "tether":
            client.kill()
            eventually("files are gone", lambda: not Path(state_dir).exists())
        else:
            if end != "stop":
                os.kill(int({"supervisor": supervisor, "init": init}[end]), signal.SIGKILL)
            if end == "init" or (end == "supervisor" and contained):
                eventually("only the client is left", lambda: processes() == [client.pid])
            elif end == "supervisor":
                # Without a namespace QEMU outlives it, until the next start or stop.
                eventually("the first process has ended", lambda: int(init) not in processes())
            output, _ = client.communicate("", timeout=60)
            assert output == "stopped\n"
    eventually("every process has ended", lambda: not processes())
    assert not Path(state_dir).exists()
    assert machine_state() == before


def test_a_user_launches_a_guest(user: User, micro_image: str) -> None:
    before = machine_state()
    with tempfile.TemporaryDirectory(prefix="vmctl-image") as folder:
        # Where the cache lies, other users may not look.
        Path(folder).chmod(0o755)
        image = Path(folder) / "micro.qcow2"
        shutil.copyfile(micro_image, image)
        image.chmod(0o644)
        with user(LAUNCH, str(image)) as client:
            output, _ = client.communicate(timeout=100)
        assert (client.returncode, output) == (0, "mine\n")
    eventually("every process has ended", lambda: not processes())
    assert machine_state() == before


def test_a_host_that_refuses_the_user(user: User, private_host: private.PrivateHost) -> None:
    socket = parse_qs(urlsplit(private_host.uri).query)["socket"][0]
    code = (
        "import sys, vmctl\n"
        "try:\n"
        "    vmctl.connect(sys.argv[1])\n"
        "except vmctl.VmctlError as error:\n"
        "    print(type(error).__name__, error.exit_code, bool(error.hint))\n"
    )
    # The folder lets nobody in; a socket that only root may use does not either.
    with tempfile.TemporaryDirectory(prefix="vmctl-socket") as folder:
        Path(folder).chmod(0o755)
        closed = Path(folder) / "sock"
        with socket_module.socket(socket_module.AF_UNIX) as listener:
            listener.bind(str(closed))
            closed.chmod(0o700)
            listener.listen()
            for path in (socket, str(closed)):
                with user(code, f"qemu+unix:///system?socket={path}") as client:
                    output, _ = client.communicate(timeout=60)
                assert output == "PermissionDeniedError 5 True\n"
