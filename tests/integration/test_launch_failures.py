"""Launches that fail: one clear error each, and nothing left over."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl.guest.readiness import Deadlines
from vmctl.hypervisor import networks, private

from .conftest import enter_host, pool_volumes

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]


def test_a_missing_image(host: vmctl.Host, make_spec: SpecMaker) -> None:
    with pytest.raises(vmctl.NotFoundError, match="there is no image file") as caught:
        host.launch(make_spec(image="/nowhere/x.qcow2"))
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_an_image_that_is_no_qcow2(host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path) -> None:
    image = tmp_path / "raw.img"
    image.write_bytes(b"\0" * 4096)
    with pytest.raises(vmctl.ImageError, match="no image of a known format") as caught:
        host.launch(make_spec(image=str(image)))
    assert caught.value.hint


def test_an_image_with_a_backing_file(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path, micro_image: str
) -> None:
    image = tmp_path / "overlay.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", micro_image]
    subprocess.run([*command, str(image)], check=True)
    with pytest.raises(vmctl.ImageError, match="names a backing file"):
        host.launch(make_spec(image=str(image)))


def test_a_disk_smaller_than_its_image(host: vmctl.Host, make_spec: SpecMaker) -> None:
    with pytest.raises(vmctl.SpecError) as caught:
        host.launch(make_spec(disks=[{"size": "1MiB"}]))
    assert caught.value.problems[0].path == "disks[0].size"
    assert caught.value.exit_code == 7


def test_too_little_memory_on_the_host(host: vmctl.Host, make_spec: SpecMaker) -> None:
    with pytest.raises(vmctl.ResourceError, match="the host has") as caught:
        host.launch(make_spec(memory="64TiB"))
    assert caught.value.hint


def test_a_key_file_that_does_not_exist(host: vmctl.Host, make_spec: SpecMaker) -> None:
    users = [{"name": "admin", "ssh_key_files": ["/nowhere/id.pub"]}]
    with pytest.raises(vmctl.SpecError) as caught:
        host.launch(make_spec(cloud_init={"users": users}))
    assert caught.value.problems[0].path == "cloud_init.users[0].ssh_key_files[0]"
    assert caught.value.exit_code == 7


def test_a_network_that_does_not_exist(host: vmctl.Host, make_spec: SpecMaker) -> None:
    with pytest.raises(vmctl.NotFoundError, match="there is no network 'nope'") as caught:
        host.launch(make_spec(nics=[{"network": "nope"}]))
    assert "user" in caught.value.hint


def test_a_pool_that_does_not_exist(
    private_host: private.PrivateHost, make_spec: SpecMaker
) -> None:
    with (
        vmctl.connect(f"private:{private_host.name}", pool="nope") as other,
        pytest.raises(vmctl.NotFoundError, match="there is no storage pool 'nope'"),
    ):
        other.launch(make_spec())


def test_a_volume_that_does_not_exist(host: vmctl.Host, make_spec: SpecMaker) -> None:
    with pytest.raises(vmctl.NotFoundError, match=r"disks\[1\].volume: there is no volume"):
        host.launch(make_spec(disks=[{}, {"volume": "nope.qcow2"}]))


def test_a_name_that_is_taken_by_vmctl(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec()
    first = host.launch(spec, wait=False)
    before = pool_volumes(host)
    with pytest.raises(vmctl.ConflictError, match="there is a machine .* already") as caught:
        host.launch(spec)
    assert caught.value.exit_code == 4
    assert pool_volumes(host) == before
    assert first.state == "running"
    first.delete()


def test_a_name_that_is_taken_by_somebody_else(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec()
    xml = (
        f"<domain type='qemu'><name>{spec.name}</name><memory>65536</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    foreign = host._connection.raw.defineXML(xml)
    try:
        with pytest.raises(vmctl.ConflictError):
            host.launch(spec)
        assert foreign.UUIDString() == host.get(spec.name).uuid
        # It is not vmctl's, so vmctl does not touch it.
        with pytest.raises(vmctl.ConflictError, match="was not made by vmctl"):
            host.get(spec.name).delete()
        with pytest.raises(vmctl.ConflictError, match="was not made by vmctl"):
            host.get(spec.name).start()
        assert foreign.isPersistent()
    finally:
        foreign.undefine()


def test_a_volume_name_that_is_taken_is_left_alone(
    host: vmctl.Host, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a volume of exactly the name vmctl would use stays whole when it is somebody else's."""
    fixed = uuid.uuid4()
    monkeypatch.setattr("vmctl.plan.uuid_module.uuid4", lambda: fixed)
    spec = make_spec()
    name = f"{spec.name}.{fixed}.vda.qcow2"
    pool = host._connection.raw.storagePoolLookupByName("default")
    volume = pool.createXML(
        f"<volume><name>{name}</name><capacity>4096</capacity>"
        "<target><format type='raw'/></target></volume>"
    )
    try:
        with pytest.raises(vmctl.ConflictError):
            host.launch(spec)
        assert name in pool_volumes(host)
        with pytest.raises(vmctl.NotFoundError):
            host.get(spec.name)
    finally:
        volume.delete(0)


def test_cloud_init_that_fails(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec(cloud_init={"runcmd": ["echo about to fail; false"]})
    with pytest.raises(vmctl.ProvisioningError, match="cloud-init failed") as caught:
        host.launch(spec)
    assert "about to fail" in caught.value.details
    assert caught.value.module is not None
    assert caught.value.module.replace("-", "_") == "scripts_user"


def test_a_failed_guest_is_kept_on_request(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec(cloud_init={"runcmd": ["false"]})
    with pytest.raises(vmctl.ProvisioningError):
        host.launch(spec, keep=True)
    vm = host.get(spec.name)
    assert vm.info().phase == "provisioning"
    assert vm.run("true").exit_status == 0
    assert host.gc() == []
    vm.delete()


def test_a_guest_that_never_boots(host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path) -> None:
    image = tmp_path / "blank.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M"], check=True)
    seen: list[vmctl.Progress] = []
    with pytest.raises(vmctl.WaitTimeoutError) as caught:
        host.launch(make_spec(image=str(image)), deadlines=Deadlines(ssh=6), progress=seen.append)
    error = caught.value
    assert (error.phase, error.exit_code) == ("ssh", 6)
    assert "console" in error.details
    assert "127.0.0.1" in error.details
    phases = [(entry.phase, entry.state) for entry in seen if entry.state != "update"]
    assert phases[-4:] == [("ssh", "begin"), ("ssh", "failed"), ("undo", "begin"), ("undo", "end")]
    # Its image came with the launch, and goes with it.
    assert not [name for name in pool_volumes(host) if _digest(image) in name]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_port_that_is_in_use(host: vmctl.Host, make_spec: SpecMaker) -> None:
    nics = [{"user": True, "forwards": [{"host": 18080, "guest": 80}]}]
    first = host.launch(make_spec(nics=nics), wait=False)
    with pytest.raises(vmctl.ConflictError, match="can't forward the port 18080"):
        host.launch(make_spec(nics=nics))
    first.delete()


def test_a_full_pool(
    private_host: private.PrivateHost, make_spec: SpecMaker, small_pool: str
) -> None:
    seen: list[vmctl.Progress] = []
    with (
        vmctl.connect(f"private:{private_host.name}", pool=small_pool) as other,
        pytest.raises(vmctl.ResourceError, match="the pool 'small' has no room") as caught,
    ):
        other.launch(make_spec(), progress=seen.append)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (1, True)
    # It was known beforehand, so nothing was begun.
    assert {entry.phase for entry in seen} == {"image"}


def test_a_pool_that_fills_up_while_its_disks_are_made(
    private_host: private.PrivateHost,
    make_spec: SpecMaker,
    tmp_path: Path,
    small_pool: str,
) -> None:
    """There was room for the image, and then somebody else took it."""
    image = tmp_path / "small.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M"], check=True)
    with image.open("ab") as file:
        file.write(os.urandom(4 << 20))
    filler = ["dd", "if=/dev/zero", "of=/var/lib/libvirt/small/filler", "bs=64k"]

    def fill(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("disks", "begin"):
            full = subprocess.run(
                [*enter_host(private_host), *filler], check=False, capture_output=True, text=True
            )
            assert "No space left" in full.stderr

    try:
        with (
            vmctl.connect(f"private:{private_host.name}", pool=small_pool) as other,
            pytest.raises(vmctl.ResourceError, match="has no room") as caught,
        ):
            other.launch(make_spec(image=str(image)), progress=fill)
    finally:
        subprocess.run(
            [*enter_host(private_host), "rm", "/var/lib/libvirt/small/filler"], check=True
        )
    assert (caught.value.exit_code, bool(caught.value.hint)) == (1, True)


def test_a_network_that_is_not_started_is_started(
    host: vmctl.Host, make_spec: SpecMaker, idle_network: str
) -> None:
    vm = host.launch(make_spec(nics=[{"network": idle_network}]))
    assert networks.is_active(host._connection, idle_network)
    assert vm.info().addresses
    vm.stop()
    networks.stop_unused(host._connection, idle_network)
    vm.start()
    vm.wait()
    assert networks.is_active(host._connection, idle_network)
    vm.delete()


def test_a_failed_launch_stops_the_network_that_it_started(
    host: vmctl.Host, make_spec: SpecMaker, idle_network: str
) -> None:
    port = {"user": True, "forwards": [{"host": 18081, "guest": 80}]}
    first = host.launch(make_spec(nics=[port]), wait=False)
    spec = make_spec(nics=[{"network": idle_network}, port])
    with pytest.raises(vmctl.ConflictError, match="can't forward the port 18081"):
        host.launch(spec)
    assert not networks.is_active(host._connection, idle_network)
    first.delete()


def test_a_failed_launch_leaves_a_network_that_others_came_to_use(
    host: vmctl.Host, make_spec: SpecMaker, idle_network: str
) -> None:
    other: list[vmctl.VM] = []

    def bring_another(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("start", "begin"):
            other.append(host.launch(make_spec(nics=[{"network": idle_network}]), wait=False))

    port = {"user": True, "forwards": [{"host": 18082, "guest": 80}]}
    first = host.launch(make_spec(nics=[port]), wait=False)
    spec = make_spec(nics=[{"network": idle_network}, port])
    with pytest.raises(vmctl.ConflictError, match="can't forward the port 18082"):
        host.launch(spec, progress=bring_another)
    assert networks.is_active(host._connection, idle_network)
    for vm in (first, *other):
        vm.delete()


def test_a_failed_launch_leaves_a_network_that_somebody_else_started(
    host: vmctl.Host, make_spec: SpecMaker, idle_network: str
) -> None:
    def start_it(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("disks", "begin"):
            networks.ensure_active(host._connection, idle_network)

    port = {"user": True, "forwards": [{"host": 18083, "guest": 80}]}
    first = host.launch(make_spec(nics=[port]), wait=False)
    with pytest.raises(vmctl.ConflictError, match="can't forward the port 18083"):
        host.launch(make_spec(nics=[{"network": idle_network}, port]), progress=start_it)
    assert networks.is_active(host._connection, idle_network)
    first.delete()


def test_a_network_that_can_not_be_started_is_one_sentence(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    raw = host._connection.raw
    # Its address is that of another network, which libvirt finds out when it starts it.
    clash = raw.networkDefineXML(
        "<network><name>clash</name><bridge name='virbr7'/>"
        "<ip address='192.168.122.1' netmask='255.255.255.0'/></network>"
    )
    try:
        with pytest.raises(vmctl.UnsupportedError, match="'clash' is not active and can't") as no:
            host.launch(make_spec(nics=[{"network": "clash"}]))
        assert "`vmctl network info clash` shows them" in no.value.hint
        assert no.value.exit_code == 1
    finally:
        clash.undefine()


def test_two_processes_launch_the_same_name(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    program = (
        "import sys, vmctl\n"
        "spec = vmctl.VMSpec.from_yaml(sys.stdin.read())\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        "    try:\n"
        "        host.launch(spec, wait=False)\n"
        "    except vmctl.ConflictError:\n"
        "        sys.exit(4)\n"
    )
    clients = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(spec.to_yaml())
        client.stdin.close()
    statuses = sorted(client.wait(timeout=120) for client in clients)
    assert statuses == [0, 4, 4, 4]
    vm = host.get(spec.name)
    assert vm.state == "running"
    assert len([name for name in pool_volumes(host) if name.startswith(f"{spec.name}.")]) == 3
    vm.delete()


def test_ctrl_c_undoes_everything(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    program = (
        "import sys, vmctl\n"
        "def say(progress):\n"
        "    print(progress.phase, progress.state, flush=True)\n"
        "spec = vmctl.VMSpec.from_yaml(sys.stdin.read())\n"
        f"with vmctl.connect('private:{private_host.name}') as host:\n"
        "    host.launch(spec, progress=say)\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(spec.to_yaml())
    client.stdin.close()
    for line in client.stdout:
        if line.startswith("ssh begin"):
            os.kill(client.pid, signal.SIGINT)
    assert client.wait(timeout=60) != 0
    assert client.stderr is not None
    assert "KeyboardInterrupt" in client.stderr.read()
    client.stdout.close()
    client.stderr.close()
    with pytest.raises(vmctl.NotFoundError):
        host.get(spec.name)
    assert host.gc(dry_run=True) == []
