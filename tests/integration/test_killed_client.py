"""SIGKILL of the client at every point of a launch, and of a delete; `gc` finds what is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import vmctl
from vmctl.gc import Leftover
from vmctl.hypervisor import networks, private

from .conftest import HostState, snapshot_of_host

pytestmark = pytest.mark.timeout(900)

SpecMaker = Callable[..., vmctl.VMSpec]
_ROOT = Path(__file__).resolve().parents[2]


def launch_and_die(host: private.PrivateHost, spec: vmctl.VMSpec, at: int) -> tuple[int, str]:
    """Run the client that kills itself; returns its status and what it said last."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.killing_client", f"private:{host.name}", str(at)],
        input=spec.to_yaml(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


def test_sigkill_at_every_change_of_a_launch(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    make_spec: SpecMaker,
    tmp_path: Path,
    idle_network: str,
) -> None:
    # An image of its own, so that its upload is a part of every launch.
    image = tmp_path / "own.qcow2"
    shutil.copy(make_spec().image or "", image)
    with image.open("ab") as file:
        file.write(b"\0" * 512)
    # A network that is not running, so that its start is one as well.
    spec = make_spec(image=str(image), autostart=True, nics=[{"network": idle_network}])
    before = snapshot_of_host(host)

    status, said = launch_and_die(private_host, spec, 0)
    assert status == 0
    points = int(said)
    host.get(spec.name).delete()
    host._connection.raw.storagePoolLookupByName("default").storageVolLookupByName(
        _only_new_base(host, before)
    ).delete(0)
    networks.stop_unused(host._connection, idle_network)
    assert snapshot_of_host(host) == before

    tried = set()
    for at in _spread(points):
        status, said = launch_and_die(private_host, spec, at)
        assert status == -signal.SIGKILL, said
        tried.add((at, said))
        made = snapshot_of_host(host)
        found = host.gc(dry_run=True)
        assert host.gc(dry_run=True) == found
        assert snapshot_of_host(host) == made
        assert told(found) >= changes(before, made), (at, said)
        assert [entry.name for entry in host.gc()] == [entry.name for entry in found]
        assert snapshot_of_host(host) == before, (at, said)
        assert host.gc() == []
    assert len(tried) >= 10


def told(found: Sequence[Leftover]) -> set[str]:
    """Return all that a dry run names."""
    return {
        name
        for entry in found
        for name in (entry.name, *entry.networks, *(v.partition("/")[2] for v in entry.volumes))
    }


def changes(before: HostState, after: HostState) -> set[str]:
    """Return the names of what is on a host after, and was not before."""
    started = {name.removesuffix(" 1") for name in after[2] - before[2]}
    return (after[0] - before[0]) | (after[1] - before[1]) | started


def _only_new_base(host: vmctl.Host, before: HostState) -> str:
    (name,) = snapshot_of_host(host)[1] - before[1]
    return name


def _spread(points: int) -> list[int]:
    """Choose points: all of the beginning and the end, and some of the upload between them.

    After the very last change the launch has succeeded: there is nothing to undo any more.
    """
    head, tail = range(1, 10), range(points - 34, points)
    middle = range(10, points - 34, max(1, (points - 44) // 4))
    return sorted({*head, *middle, *tail})


def test_a_delete_that_was_killed_is_finished_by_gc(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    before = snapshot_of_host(host)
    vm = host.create(make_spec())
    program = (
        "import os, signal, vmctl, vmctl.hypervisor.volumes as volumes\n"
        "def die(self):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "volumes.StoredVolume.delete = die\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        f"    host.get('{vm.name}').delete()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert vm.info().phase == "deleting"
    with pytest.raises(vmctl.ConflictError, match="is not whole"):
        vm.start()
    assert [entry.phase for entry in host.gc()] == ["deleting"]
    left = snapshot_of_host(host)
    assert left[0] == before[0]
    assert {name for name in left[1] - before[1] if not name.startswith("sha256-")} == set()


def test_gc_leaves_work_in_progress_and_finished_machines_alone(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    ready = host.create(make_spec())
    spec = make_spec()
    program = (
        "import sys, vmctl\n"
        "def say(progress):\n"
        "    print(progress.phase, progress.state, flush=True)\n"
        "    if progress.phase == 'start' and progress.state == 'end':\n"
        "        sys.stdin.readline()\n"
        f"spec = vmctl.VMSpec.from_yaml({spec.to_yaml()!r})\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        "    host.launch(spec, progress=say)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        for line in client.stdout:
            if line.startswith("start end"):
                break
        # The client is alive, and waits for us in the middle of its launch.
        assert host.gc() == []
        os.kill(client.pid, signal.SIGKILL)
    assert [entry.name for entry in host.gc()] == [spec.name]
    assert ready.state == "shut off"
    ready.delete()
