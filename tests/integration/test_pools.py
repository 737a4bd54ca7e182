"""Pools of every kind that can be run here, with guests on their volumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.errors import (
    ConflictError,
    HypervisorError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from vmctl.hypervisor import private

from . import servers

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts and namespaces"),
    pytest.mark.usefixtures("nothing_left"),
]

SpecMaker = Callable[..., vmctl.VMSpec]
MIB = 1 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that QEMU may walk through, which pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="vmctl-p-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def name(host: vmctl.Host) -> Iterator[str]:
    """A pool's name; whatever is left of it is removed."""
    before = {pool.name for pool in host.pools.list()}
    name = f"p{uuid.uuid4().hex[:8]}"
    yield name
    after = {pool.name for pool in host.pools.list()}
    for left in after - before:
        host.pools.delete(left, keep_volumes=True)
    assert after == before


@pytest.fixture
def namespace(private_host: private.PrivateHost) -> Path:
    found = private_host.network_namespace
    assert found is not None
    return found


def spec(name: str, kind: str, **fields: object) -> vmctl.PoolSpec:
    return vmctl.PoolSpec.model_validate({"name": name, "type": kind, **fields})


def pools_by_virsh(host: vmctl.Host) -> dict[str, tuple[bool, bool, bool]]:
    return {
        pool.name(): (bool(pool.isActive()), bool(pool.isPersistent()), bool(pool.autostart()))
        for pool in host._connection.raw.listAllStoragePools()
    }


def disk_round_trip(vm: vmctl.VM, device: str, size: int) -> None:
    """See a disk's size in the guest, write a pattern near both ends of it, and read it back."""
    sectors = size // 512
    seen = vm.run(f"cat /sys/block/{device}/size", check=True).stdout.strip()
    assert seen == str(sectors)
    for sector, text in ((0, "first"), (sectors - 2, "last")):
        vm.run(
            f"echo {text} | "
            f"sudo -n dd of=/dev/{device} bs=512 seek={sector} conv=sync,fsync,notrunc",
            check=True,
        )
        back = vm.run(
            f"sudo -n sh -c 'echo 3 > /proc/sys/vm/drop_caches'; "
            f"sudo -n dd if=/dev/{device} bs=512 skip={sector} count=1 | head -n 1",
            check=True,
        )
        assert back.stdout == f"{text}\n"


def test_a_dir_pool_and_a_guest_in_it(
    host: vmctl.Host, make_spec: SpecMaker, name: str, folder: Path
) -> None:
    made = host.pools.create(spec(name, "dir", target=str(folder / "pool")))
    assert (made.type, made.state, made.autostart, made.volumes) == ("dir", "running", True, 0)
    assert made.target == str(folder / "pool")
    assert pools_by_virsh(host)[name] == (True, True, True)
    assert (folder / "pool").stat().st_mode & 0o777 == 0o711
    with pytest.raises(ConflictError, match=f"there is a pool '{name}' already"):
        host.pools.create(spec(name, "dir", target=str(folder / "other")))
    with pytest.raises(ConflictError, match=f"is that of the pool '{name}' already"):
        host.pools.create(spec(f"{name}-2", "dir", target=str(folder / "pool")))

    with vmctl.connect(host.uri, pool=name) as there:
        vm = there.launch(make_spec(disks=[{}, {"size": "8MiB"}]))
        disk_round_trip(vm, "vdb", 8 * MIB)
        assert host.pools.info(name).volumes == len(list((folder / "pool").iterdir()))
        choices: list[dict[str, bool]] = [{}, {"with_volumes": True}, {"keep_volumes": True}]
        for options in choices:
            with pytest.raises(ConflictError, match=f"is used by the machine '{vm.name}'"):
                host.pools.delete(name, **options)
        vm.delete()
    # The base image is there still.
    with pytest.raises(ConflictError, match=f"the pool '{name}' has 1 volumes"):
        host.pools.delete(name)
    with pytest.raises(UsageError, match="deleted or kept"):
        host.pools.delete(name, with_volumes=True, keep_volumes=True)
    host.pools.delete(name, with_volumes=True)
    assert not (folder / "pool").exists()
    with pytest.raises(NotFoundError, match=f"no storage pool '{name}'"):
        host.pools.info(name)


def test_what_lay_in_a_folder_stays(host: vmctl.Host, name: str, folder: Path) -> None:
    (folder / "letter").write_text("dear")
    made = host.pools.create(spec(name, "dir", target=str(folder), autostart=False))
    assert (made.autostart, made.volumes) == (False, 1)
    host.pools.delete(name, keep_volumes=True)
    assert (folder / "letter").read_text() == "dear"
    assert name not in pools_by_virsh(host)


def test_a_pool_that_cant_start_leaves_nothing(host: vmctl.Host, name: str, folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "file").touch()
    for target in ("new", "there"):
        with pytest.raises(HypervisorError, match=f"could not create the pool '{name}'"):
            host.pools.create(
                spec(
                    name,
                    "fs",
                    source={"devices": str(folder / "no-device"), "format": "ext4"},
                    target=str(folder / target),
                )
            )
    with pytest.raises(vmctl.VmctlError, match=f"could not create the pool '{name}'"):
        host.pools.create(spec(name, "dir", target=str(folder / "file" / "pool")))
    assert name not in pools_by_virsh(host)
    assert {entry.name for entry in folder.iterdir()} == {"there", "file"}


def test_a_kind_that_the_host_lacks_is_refused_in_one_sentence(host: vmctl.Host, name: str) -> None:
    lacking = {"rbd", "zfs"} - set(_supported(host))
    assert lacking, "this libvirt has a driver for all kinds"
    for kind in lacking:
        source = {"name": "vms"} | ({"hosts": "mon"} if kind == "rbd" else {})
        with pytest.raises(UnsupportedError, match=f"no driver for pools of type {kind}"):
            host.pools.create(spec(name, kind, source=source))
    with pytest.raises(UsageError, match="nothing to initialize"):
        host.pools.create(spec(name, "dir", target="/nowhere"), initialize=True)


def _supported(host: vmctl.Host) -> frozenset[str]:
    from vmctl.hypervisor.pools import supported_types

    found = supported_types(host._connection)
    assert found is not None
    return found


def test_a_client_that_was_killed_half_way_is_gone_on_with(
    host: vmctl.Host, name: str, folder: Path
) -> None:
    from vmctl.hypervisor.pool_making import bring_up
    from vmctl.pools import uuid_of

    wanted = spec(name, "dir", target=str(folder / "pool"))
    # As far as it comes before libvirt keeps it.
    bring_up(host._connection, wanted, uuid=uuid_of(wanted), initialize=False)
    assert pools_by_virsh(host)[name] == (True, False, False)
    with pytest.raises(ConflictError, match="already"):
        host.pools.create(spec(name, "dir", target=str(folder / "other")))
    made = host.pools.create(wanted)
    assert (made.persistent, made.autostart) == (True, True)
    with pytest.raises(ConflictError, match="already"):
        host.pools.create(wanted)
    host.pools.delete(name, with_volumes=True)


def test_an_fs_pool_a_guest_in_it_and_what_happens_when_it_is_full(
    host: vmctl.Host, make_spec: SpecMaker, name: str, folder: Path
) -> None:
    with servers.loop_device(folder / "device", 64 * MIB) as device:
        wanted = spec(
            name,
            "fs",
            source={"devices": device, "format": "ext4"},
            target=str(folder / "mounted"),
        )
        made = host.pools.create(wanted)
        assert 40 * MIB < made.capacity < 64 * MIB
        host.volumes.create(f"{name}/data", "8MiB", format="raw")
        vm = host.launch(make_spec(disks=[{}, {"volume": f"{name}/data", "format": "raw"}]))
        disk_round_trip(vm, "vdb", 8 * MIB)
        with pytest.raises(ConflictError, match=f"is used by the machine '{vm.name}'"):
            host.pools.delete(name)
        vm.delete()

        _fill_up(host, name, folder)
        # A launch there fails as a whole too.
        with vmctl.connect(host.uri, pool=name) as there:
            host.volumes.create(
                f"{name}/ballast",
                host.pools.info(name).available - 2 * MIB,
                format="raw",
                preallocate=True,
            )
            with pytest.raises(ResourceError, match=f"the pool '{name}' has no room"):
                there.launch(make_spec())
        assert [v.name for v in host.volumes.list(name)] == ["ballast", "data", "lost+found"]
        host.volumes.delete(f"{name}/ballast")
        host.volumes.delete(f"{name}/data")
        # ext4's own folder is none that libvirt could delete.
        host.pools.delete(name, keep_volumes=True)
        assert not os.path.ismount(folder / "mounted")


def _fill_up(host: vmctl.Host, name: str, folder: Path) -> None:
    """Let a pool be full: before an upload, in the middle of one, of a create and of a clone."""
    before = [volume.name for volume in host.volumes.list(name)]
    large = folder / "large"
    large.write_bytes(os.urandom(80 * MIB))
    with pytest.raises(ResourceError, match="has no room for the volume 'x'\\nit takes"):
        host.volumes.upload(large, f"{name}/x", format="raw")

    room = host.pools.info(name).available
    os.truncate(large, room - 4 * MIB)
    ballast = [False]

    def fill(report: vmctl.Progress) -> None:
        """Take the room away when a quarter of the upload has gone."""
        if report.phase == "upload" and (report.fraction or 0) > 0.25 and not ballast[0]:
            ballast[0] = True
            host.volumes.create(f"{name}/ballast", room // 2, format="raw", preallocate=True)

    with pytest.raises(ResourceError, match=f"the pool '{name}' has no room") as caught:
        host.volumes.upload(large, f"{name}/x", format="raw", progress=fill)
    assert ballast == [True]
    assert caught.value.hint
    host.volumes.delete(f"{name}/ballast")
    assert [volume.name for volume in host.volumes.list(name)] == before

    with pytest.raises(vmctl.VmctlError):
        host.volumes.create(f"{name}/x", "200MiB", format="raw", preallocate=True)
    os.truncate(large, 30 * MIB)
    host.volumes.upload(large, f"{name}/half", format="raw")
    with pytest.raises(ResourceError, match="no room for a copy"):
        host.volumes.clone(f"{name}/half", f"{name}/x")
    host.volumes.delete(f"{name}/half")
    assert [volume.name for volume in host.volumes.list(name)] == before


def test_an_fs_pool_is_initialized_only_on_an_empty_device(
    host: vmctl.Host, name: str, folder: Path
) -> None:
    with servers.loop_device(folder / "device", 16 * MIB) as device:
        wanted = spec(
            name,
            "fs",
            source={"devices": device, "format": "ext4"},
            target=str(folder / "mounted"),
        )
        with pytest.raises(vmctl.VmctlError, match=f"could not create the pool '{name}'"):
            host.pools.create(wanted, initialize=True)
        Path(device).write_bytes(bytes(4 * MIB))
        made = host.pools.create(wanted, initialize=True)
        assert made.state == "running"
        host.pools.delete(name, keep_volumes=True)


def test_an_iscsi_direct_pool_and_a_guest_on_its_lun(
    host: vmctl.Host, make_spec: SpecMaker, name: str, folder: Path, namespace: Path
) -> None:
    luns = [folder / "one", folder / "two"]
    for lun in luns:
        lun.write_bytes(bytes(8 * MIB))
    with servers.iscsi(namespace, folder, luns) as port:
        made = host.pools.create(
            spec(
                name,
                "iscsi-direct",
                source={
                    "hosts": {"name": "127.0.0.1", "port": port},
                    "devices": servers.IQN,
                    "initiator": servers.INITIATOR,
                },
            )
        )
        assert made.source == f"127.0.0.1:{port} {servers.IQN}"
        found = {volume.name: volume for volume in host.volumes.list(name)}
        assert {"unit:0:0:1", "unit:0:0:2"} <= set(found)
        assert found["unit:0:0:1"].type == "network"
        with pytest.raises(UnsupportedError, match="are made on its server"):
            host.volumes.create(f"{name}/new", "1MiB")

        vm = host.launch(
            make_spec(
                disks=[
                    {},
                    {"volume": f"{name}/unit:0:0:1", "format": "raw"},
                    {
                        "network": {
                            "protocol": "iscsi",
                            "hosts": {"name": "127.0.0.1", "port": port},
                            "name": f"{servers.IQN}/2",
                        }
                    },
                ]
            )
        )
        disk_round_trip(vm, "vdb", 8 * MIB)
        disk_round_trip(vm, "vdc", 8 * MIB)
        user = f"the machine '{vm.name}'"
        for unit in ("unit:0:0:1", "unit:0:0:2"):
            assert [str(one) for one in host.volumes.info(f"{name}/{unit}").used_by] == [user]
        with pytest.raises(ConflictError, match=f"used by {user}"):
            host.volumes.wipe(f"{name}/unit:0:0:1")
        with pytest.raises(ConflictError, match=f"used by {user}"):
            host.pools.delete(name)
        vm.delete()
        with pytest.raises(UsageError, match="are its server's"):
            host.pools.delete(name, with_volumes=True)
        host.pools.delete(name)
    for file in luns:
        assert file.read_bytes().startswith(b"first\n")


def test_a_lun_is_raw_whatever_a_guest_wrote_to_it(
    host: vmctl.Host, make_spec: SpecMaker, name: str, folder: Path, namespace: Path
) -> None:
    (folder / "secret").write_bytes(b"root:x:0:0\n" * 100)
    lun = folder / "lun"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw"]
    subprocess.run([*command, "-b", str(folder / "secret"), str(lun), "1M"], check=True)
    with servers.iscsi(namespace, folder, [lun]) as port:
        source = {
            "hosts": {"name": "127.0.0.1", "port": port},
            "devices": servers.IQN,
            "initiator": servers.INITIATOR,
        }
        host.pools.create(spec(name, "iscsi-direct", source=source))
        disk = {"volume": f"{name}/unit:0:0:1"}
        raw = {**disk, "format": "raw"}
        vm = host.create(make_spec(cloud_init=None, disks=[{}, raw]))
        assert [found.format for found in vm._domain.disks()] == ["qcow2", "raw"]
        vm.delete()
        vm = host.create(make_spec(cloud_init=None))
        for wanted in (disk, {**disk, "format": "qcow2", "read_only": True}):
            with pytest.raises(UnsupportedError, match="a server's, and can be raw only") as said:
                host.create(make_spec(cloud_init=None, disks=[{}, wanted]))
            assert "write format: raw" in said.value.hint
            with pytest.raises(UnsupportedError, match="is a server's, and can be raw only"):
                vm.disks.attach(vmctl.DiskSpec.model_validate(wanted))
        vm.delete()
        host.pools.delete(name)


def test_guests_on_nbd_exports(
    host: vmctl.Host, make_spec: SpecMaker, folder: Path, namespace: Path
) -> None:
    files = [folder / "one", folder / "two"]
    for file in files:
        file.write_bytes(bytes(8 * MIB))
    unix = folder / "socket"
    with (
        servers.nbd(namespace, files[0], export="data") as port,
        servers.nbd(namespace, files[1], unix=unix),
    ):
        unix.chmod(0o666)
        address = {"name": "127.0.0.1", "port": port}
        over_tcp = {"protocol": "nbd", "hosts": address, "name": "data"}
        over_unix = {"protocol": "nbd", "socket": str(unix)}
        vm = host.launch(make_spec(disks=[{}, {"network": over_tcp}, {"network": over_unix}]))
        disk_round_trip(vm, "vdb", 8 * MIB)
        disk_round_trip(vm, "vdc", 8 * MIB)
        vm.delete()
    for file in files:
        assert file.read_bytes().startswith(b"first\n")


def test_a_server_that_isnt_there_fails_the_launch_as_a_whole(
    host: vmctl.Host, make_spec: SpecMaker, namespace: Path
) -> None:
    address = {"name": "127.0.0.1", "port": servers.free_port(namespace)}
    with pytest.raises(vmctl.VmctlError, match="could not start"):
        host.launch(make_spec(disks=[{}, {"network": {"protocol": "nbd", "hosts": address}}]))
