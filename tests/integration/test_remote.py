"""A host that is reached by SSH, as a remote one is: a server of the tests' own, on loopback.

It runs in a mount namespace of its own, where the user's ``~/.ssh`` and ``/run`` are other ones.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import vmctl
from vmctl.hypervisor import private

pytestmark = pytest.mark.timeout(600)

SpecMaker = Callable[..., vmctl.VMSpec]

# Run with: the folder for keys, the socket of libvirtd, a spec in YAML on stdin.
_INSIDE = """
import contextlib, json, os, pwd, signal, socket, subprocess, sys, time
from pathlib import Path
import vmctl
from vmctl.hypervisor.events import Signal

def ssh_count():
    command = ["pgrep", "-c", "-x", "ssh", "-P", str(os.getpid())]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()

def ended(count):
    # libvirt's event loop lets go of a closed connection when it next comes by.
    return Signal().wait_for(
        lambda: True if ssh_count() == str(count) else None,
        deadline=time.monotonic() + 20, recheck=0.1,
    )

def ctrl_c(report):
    # On a terminal the ssh of the connection is ended as well, being in the same process group.
    if (report.phase, report.state) == ("download", "begin"):
        command = ["pgrep", "-x", "ssh", "-P", str(os.getpid()), "-g", "0"]
        (own,) = subprocess.run(command, capture_output=True, text=True).stdout.split()
        os.kill(int(own), signal.SIGINT)
        raise KeyboardInterrupt

def kept(host, vm, found):
    # Snapshots of the other kind, and backups, both ways.
    vm.snapshots.delete("s")
    vm.snapshots.create("e", kind="external")
    vm.run("echo later >/var/tmp/when; sync", check=True)
    vm.snapshots.revert("e", keep="k")
    found["reverted"] = vm.run("cat /var/tmp/when").exit_status
    found["deleted"] = vm.snapshots.delete("e", children=True)
    place = folder / "backups"
    full = vm.backup(place)
    vm.run("echo later >/var/tmp/when; sync", check=True)
    with contextlib.suppress(KeyboardInterrupt):
        vm.backup(place, progress=ctrl_c)
    found["leftovers"] = [entry.name for entry in host.gc(dry_run=True)]
    found["kinds"] = [full.kind, vm.backup(place).kind]
    backups = vmctl.Backups(place)
    found["problems"] = [entry.problem for entry in backups.verify()]
    with open(folder / "stream", "wb") as out:
        vm.backup(out)
    with open(folder / "stream", "rb") as stream:
        found["problems"].append(vmctl.Backups.verify_stream(stream).problem)
    host.restore(place, name="again").delete()
    vm.stop(timeout=60)
    vm.restore(place, id=full.id)
    vm.start()
    vm.wait()
    found["restored"] = vm.run("cat /var/tmp/when").exit_status

folder, libvirtd = Path(sys.argv[1]), sys.argv[2]
home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
for place in (home / ".ssh", Path("/run")):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", str(place)], check=True)
ssh_folder = home / ".ssh"
ssh_folder.chmod(0o700)
# Where a host's libvirtd listens, as virt-ssh-helper expects it there.
Path("/run/libvirt").mkdir()
Path("/run/libvirt/libvirt-sock").symlink_to(libvirtd)
subprocess.run(
    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "client")], check=True
)
(ssh_folder / "authorized_keys").write_text((folder / "client.pub").read_text())
(ssh_folder / "authorized_keys").chmod(0o600)
made = subprocess.run(
    ["dropbearkey", "-t", "ed25519", "-f", str(folder / "host")],
    check=True, capture_output=True, text=True,
)
public = next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519 ")).split()
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
(ssh_folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\\n")
# A name that only ssh itself knows what to do with.
(ssh_folder / "config").write_text(
    f"Host hyper\\n  HostName 127.0.0.1\\n  Port {port}\\n  User root\\n"
    f"  IdentityFile {folder}/client\\n  StrictHostKeyChecking yes\\n"
)
server = subprocess.Popen(
    ["dropbear", "-F", "-E", "-s", "-p", f"127.0.0.1:{port}", "-r", str(folder / "host"),
     "-P", str(folder / "pid")]
)
try:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        assert time.monotonic() < deadline and server.poll() is None
    with vmctl.connect("qemu+ssh://hyper/system") as host:
        vm = host.launch(vmctl.VMSpec.from_yaml(sys.stdin.read()))
        done = vm.run("cat /etc/motto; cat >&2", stdin=b"x" * 100000, check=True)
        found = {
            "stdout": done.stdout, "stderr": len(done.stderr), "via": done.via,
            "ssh": ssh_count(),
            "state": vm.state,
        }
        (folder / "tree").mkdir()
        (folder / "tree" / "file").write_bytes(b"z" * 100000)
        vm.copy_to(folder / "tree", "", recursive=True)
        found["copied"] = vm.run("wc -c <tree/file", check=True).stdout.strip()
        vm.copy_from("tree", folder / "back", recursive=True)
        found["back"] = (folder / "back" / "file").read_bytes() == b"z" * 100000
        with vm.forward(22) as guest_port:
            with socket.create_connection(("127.0.0.1", guest_port)) as client:
                found["forwarded"] = client.recv(4).decode()
        config = folder / "config"
        config.write_text(vm.ssh_config())
        found["openssh"] = subprocess.run(
            ["ssh", "-F", str(config), vm.name, "cat /etc/motto"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        ).stdout
        with vm.agent.frozen():
            found["frozen"] = vm.agent.is_frozen()
        found["still_one"] = ssh_count()
        with vm.console.open() as console:
            vm.agent.run("echo far >/dev/ttyS0")
            found["console"] = console.expect("far", timeout=60).text
        found["after_console"] = ended(2)
        found["screen"] = vm.screen.screenshot()[:4].decode("latin-1")
        with vm.screen.forward() as relay:
            with socket.create_connection(("127.0.0.1", relay.port)) as client:
                found["display"] = client.recv(4).decode()
        found["after_display"] = ended(2)
        vm.snapshots.create("s")
        vm.snapshots.revert("s")
        found["after"] = vm.run("cat /etc/motto", check=True).stdout
        kept(host, vm, found)
        vm.delete()
        found["left"] = [entry.name for entry in host.list()]
    found["all_ended"] = ended(0)
    print(json.dumps(found))
finally:
    server.terminate()
    server.wait()
"""


@pytest.fixture
def hypervisor(client_home: object) -> Iterator[private.PrivateHost]:
    """A private host on the machine's own network, where its guests' forwarded ports are too."""
    host = private.start("remote", network="host", tether=True)
    try:
        yield host
    finally:
        private.stop(host.name, force=True)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")
def test_a_launch_on_a_remote_host(
    hypervisor: private.PrivateHost, ssh_folder: None, make_spec: SpecMaker, tmp_path: Path
) -> None:
    spec = make_spec(
        graphics=["vnc"],
        cloud_init={"write_files": [{"path": "/etc/motto", "content": "far away"}]},
    )
    socket = parse_qs(urlsplit(hypervisor.uri).query)["socket"][0]
    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _INSIDE, str(tmp_path), socket],
        input=spec.to_yaml(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "stdout": "far away",
        "stderr": 100000,
        "via": "ssh",
        # libvirt's own, and the one to the guest.
        "ssh": "2",
        "state": "running",
        "copied": "100000",
        "back": True,
        "forwarded": "SSH-",
        "openssh": "far away",
        "frozen": True,
        # All of that went over the same two.
        "still_one": "2",
        "console": "far",
        "after_console": True,
        "screen": "\x89PNG",
        "display": "RFB ",
        "after_display": True,
        "after": "far away",
        # The file was written after the snapshot, and after the full backup.
        "reverted": 1,
        "deleted": ["e", "k"],
        "leftovers": [],
        "kinds": ["full", "incremental"],
        "problems": ["", "", ""],
        "restored": 1,
        "left": [],
        "all_ended": True,
    }
