"""Volumes of a real pool: made, copied, grown, streamed both ways, and never taken from anybody."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl.errors import (
    ConflictError,
    ImageError,
    NotFoundError,
    UsageError,
)
from vmctl.hypervisor import private
from vmctl.hypervisor.pools import open_pool
from vmctl.spec import Size

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]
MIB = 1 << 20


@pytest.fixture
def name() -> str:
    return f"v{uuid.uuid4().hex[:8]}"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(host: vmctl.Host, pool: str | None = None) -> list[str]:
    return [volume.name for volume in host.volumes.list(pool, everything=True)]


def names_shown(host: vmctl.Host) -> list[str]:
    return [volume.name for volume in host.volumes.list()]


def sparse_file(path: Path) -> Path:
    """Make 64 MiB with data at 0, at 20 MiB and in the last bytes."""
    with path.open("wb") as file:
        file.write(os.urandom(100_000))
        file.seek(20 * MIB)
        file.write(os.urandom(3 * MIB))
        file.seek(64 * MIB - 10)
        file.write(b"0123456789")
    return path


def test_create_list_info_delete(host: vmctl.Host, name: str) -> None:
    made = host.volumes.create(name, "8MiB")
    assert (made.pool, made.name, made.format, made.capacity) == ("default", name, "qcow2", 8 * MIB)
    assert made.allocation < MIB
    assert name in names(host)
    assert host.volumes.info(f"default/{name}").used_by == ()
    host.volumes.delete(name)
    with pytest.raises(NotFoundError, match=f"no volume '{name}' in the pool 'default'"):
        host.volumes.info(name)


def test_a_preallocated_one_takes_its_space(host: vmctl.Host, name: str) -> None:
    for kind in ("raw", "qcow2"):
        made = host.volumes.create(name, "8MiB", format=kind, preallocate=True)
        assert made.allocation >= 8 * MIB
        assert made.capacity == 8 * MIB
        host.volumes.delete(name)


def test_a_volume_into_a_pipe(host: vmctl.Host, name: str, tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "disk")
    host.volumes.upload(path, name, format="raw")
    command = [sys.executable, "-m", "vmctl.cli.main", "-c", host.uri, "volume", "download"]
    done = subprocess.run([*command, f"default/{name}", "-"], check=True, capture_output=True)
    assert hashlib.sha256(done.stdout).hexdigest() == digest(path)
    host.volumes.delete(name)


def test_a_name_that_is_somebody_elses_is_left_alone(
    host: vmctl.Host, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "theirs"
    path.write_bytes(b"theirs" * 100)
    host.volumes.upload(path, name, format="raw")
    host.volumes.create(f"{name}-other", "1MiB")
    attempts: list[Callable[[], object]] = [
        lambda: host.volumes.create(name, "1MiB"),
        lambda: host.volumes.upload(path, name, format="raw"),
        lambda: host.volumes.clone(f"{name}-other", name),
    ]
    for attempt in attempts:
        with pytest.raises(ConflictError, match=f"there is a volume '{name}' .* already"):
            attempt()
    host.volumes.download(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    host.volumes.delete(name)
    host.volumes.delete(f"{name}-other")


def test_holes_travel_both_ways(host: vmctl.Host, name: str, tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "sparse")
    before = path.stat().st_blocks
    seen: list[vmctl.Progress] = []
    made = host.volumes.upload(path, name, format="raw", progress=seen.append)
    assert made.capacity == 64 * MIB
    assert made.allocation < 6 * MIB
    seen = [report for report in seen if report.phase == "upload"]
    fractions = [report.fraction for report in seen if report.fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert (seen[0].state, seen[-1].state) == ("begin", "end")

    back = tmp_path / "back"
    assert host.volumes.download(name, back) == 64 * MIB
    assert digest(back) == digest(path)
    assert back.stat().st_blocks <= before + 64
    assert back.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConflictError, match="there is a file"):
        host.volumes.download(name, back)
    host.volumes.download(name, back, replace=True)
    assert digest(back) == digest(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"sparse", "back"}
    host.volumes.delete(name)


@pytest.mark.parametrize("size", [1, 65536, 65537, 262120, 300_000])
def test_files_of_awkward_sizes_arrive_whole(
    host: vmctl.Host, name: str, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    host.volumes.upload(path, name, format="raw")
    assert host.volumes.download(name, tmp_path / "back") == size
    assert digest(tmp_path / "back") == digest(path)
    host.volumes.delete(name)


def test_an_image_is_looked_at_before_it_enters(
    host: vmctl.Host, name: str, tmp_path: Path
) -> None:
    overlay, plain = tmp_path / "overlay", tmp_path / "plain"
    plain.write_bytes(b"x" * 4096)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd"]
    subprocess.run([*command, str(overlay), "1M"], check=True)
    with pytest.raises(ImageError, match="backing file"):
        host.volumes.upload(overlay, name)
    with pytest.raises(ImageError):
        host.volumes.upload(overlay, name, format="raw")
    with pytest.raises(ImageError):
        host.volumes.upload(plain, name, format="qcow2")
    with pytest.raises(NotFoundError, match="there is no file"):
        host.volumes.upload(tmp_path / "none", name)
    with pytest.raises(ImageError, match="is no regular file"):
        host.volumes.upload(Path("/dev/zero"), name, format="raw")
    assert name not in names(host)


def test_a_clone_is_whole_and_apart(
    host: vmctl.Host, make_spec: SpecMaker, micro_image: str, name: str, tmp_path: Path
) -> None:
    vm = host.create(make_spec())
    disk = next(volume for volume in host.volumes.list() if f"{vm.uuid}.vda." in volume.name)
    assert disk.backing
    cloned = host.volumes.clone(disk.name, name)
    assert cloned.backing == ""
    assert cloned.capacity == disk.capacity
    assert cloned.allocation > disk.allocation
    host.volumes.download(name, tmp_path / "copy")
    compare = ["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", micro_image]
    subprocess.run([*compare, str(tmp_path / "copy")], check=True)
    host.volumes.delete(name)
    vm.delete()


def test_what_a_machine_uses_is_nobodys_to_take(
    host: vmctl.Host, make_spec: SpecMaker, name: str, tmp_path: Path
) -> None:
    host.volumes.create(name, "8MiB", format="raw")
    other = tmp_path / "shown.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(other), "8M"], check=True)
    host.images.import_file(other)
    vm = host.create(make_spec(disks=[{}, {"volume": name, "format": "raw"}]))
    listed = host.volumes.list(everything=True)
    own = [volume for volume in listed if volume.name.startswith(f"{vm.name}.")]
    # Its seed and its console log are nobody's to work with, and so are vmctl's own notes.
    shown = names_shown(host)
    assert {name for name in shown if name.startswith(vm.name)} == {
        f"{vm.name}.{vm.uuid}.vda.qcow2"
    }
    assert {volume.name.rpartition(".")[2] for volume in own} == {"qcow2", "iso", "log"}
    assert "shown.vmctl-image" in names(host)
    assert "shown.vmctl-image" not in shown
    host.images.remove("shown")
    base = next(volume.backing for volume in own if volume.backing)
    used = [name, *(volume.name for volume in own), Path(base).name]
    for volume in used:
        assert f"the machine '{vm.name}'" in map(str, host.volumes.info(volume).used_by)
        for attempt in (host.volumes.delete, host.volumes.wipe):
            with pytest.raises(ConflictError, match=f"used by the machine '{vm.name}'"):
                attempt(volume)
    disk = next(volume.name for volume in own if volume.backing)
    lying_on_it = host.volumes.info(Path(base).name).used_by
    assert ("volume", f"default/{disk}") in [(user.kind, user.name) for user in lying_on_it]
    with pytest.raises(ConflictError, match="must not change"):
        host.volumes.grow(Path(base).name, "4GiB")
    with pytest.raises(ConflictError, match=f"is used by the machine '{vm.name}'"):
        host.pools.delete("default", with_volumes=True)
    vm.delete()
    # It was attached, and not the machine's own.
    assert host.volumes.info(name).used_by == ()
    host.volumes.delete(name)


def test_a_running_guest_sees_its_disk_grow(
    host: vmctl.Host, make_spec: SpecMaker, name: str, tmp_path: Path
) -> None:
    host.volumes.create(name, "8MiB", format="raw")
    vm = host.launch(make_spec(disks=[{}, {"volume": name, "format": "raw"}]))
    vm.run("echo pattern | sudo -n dd of=/dev/vdb bs=512 conv=sync,fsync", check=True)
    assert vm.run("cat /sys/block/vdb/size", check=True).stdout.strip() == str(8 * MIB // 512)
    with pytest.raises(UsageError, match="only grows"):
        host.volumes.grow(name, "8MiB")
    for volume in (name, f"{vm.name}.{vm.uuid}.vda.qcow2"):
        with pytest.raises(ConflictError, match="runs and writes"):
            host.volumes.download(volume, tmp_path / "torn")
        with pytest.raises(ConflictError, match="runs and writes"):
            host.volumes.clone(volume, f"{name}-torn")
    assert host.volumes.grow(name, "24MiB").capacity == 24 * MIB
    assert vm.run("cat /sys/block/vdb/size", check=True).stdout.strip() == str(24 * MIB // 512)
    vm.run(
        "echo end | sudo -n dd of=/dev/vdb bs=512 seek=49151 conv=sync,fsync,notrunc", check=True
    )

    own = f"{vm.name}.{vm.uuid}.vda.qcow2"
    larger = host.volumes.info(own).capacity + 64 * MIB
    assert host.volumes.grow(own, larger).capacity == larger
    assert vm.run("cat /sys/block/vda/size", check=True).stdout.strip() == str(larger // 512)
    record = vm._domain.record()
    assert record is not None
    # What vmctl knows of the machine grew with it.
    assert Size(record.spec["disks"][0]["size"]) == larger
    vm.stop()
    assert host.volumes.grow(name, "32MiB").capacity == 32 * MIB
    host.volumes.download(name, tmp_path / "disk")
    content = (tmp_path / "disk").read_bytes()
    assert content.startswith(b"pattern\n")
    assert content[49151 * 512 :].startswith(b"end\n")
    vm.delete()
    host.volumes.wipe(name)
    host.volumes.download(name, tmp_path / "disk", replace=True)
    assert not any((tmp_path / "disk").read_bytes())
    host.volumes.delete(name)


_UPLOADING = """
import sys, vmctl
host, path, name = sys.argv[1:]
def show(report):
    if report.phase == "upload" and (report.fraction or 0) > 0.2:
        print("half", flush=True)
        sys.stdin.readline()
with vmctl.connect(host) as connection:
    connection.volumes.upload(path, name, format="raw", progress=show)
"""


@pytest.fixture
def half_uploaded(host: vmctl.Host, name: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A client that stands still in the middle of an upload."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(16 * MIB))
    command = [sys.executable, "-c", _UPLOADING, host.uri, str(path), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"half\n"
        try:
            yield client
        finally:
            client.kill()


def test_an_upload_that_is_interrupted_leaves_nothing(
    host: vmctl.Host, name: str, half_uploaded: subprocess.Popen[bytes]
) -> None:
    assert name in names(host)
    with pytest.raises(ConflictError, match="already"):
        host.volumes.create(name, "1MiB")
    assert [left for left in host.gc(dry_run=True) if left.phase == "uploading"] == []
    half_uploaded.send_signal(signal.SIGINT)
    assert half_uploaded.wait(timeout=60) != 0
    assert [found for found in names(host) if found.startswith(name)] == []


def test_an_upload_whose_client_is_killed_is_found_and_removed(
    host: vmctl.Host, name: str, half_uploaded: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    half_uploaded.kill()
    half_uploaded.wait(timeout=60)
    host.volumes.download(name, tmp_path / "half")
    # Nobody takes it for what it should have become.
    assert not any((tmp_path / "half").read_bytes()[:65536])
    found = [left for left in host.gc(dry_run=True) if left.phase == "uploading"]
    assert [left.name for left in found] == [f"default/{name}"]
    assert [left.name for left in host.gc()] == [f"default/{name}"]
    assert [found for found in names(host) if found.startswith(name)] == []
    assert host.gc() == []


def test_a_failure_in_the_middle_of_a_download_leaves_no_file(
    host: vmctl.Host, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 * MIB))
    host.volumes.upload(path, name, format="raw")

    def fail(report: vmctl.Progress) -> None:
        if (report.fraction or 0) > 0.5:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        host.volumes.download(name, tmp_path / "back", progress=fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with pytest.raises(NotFoundError, match="no folder"):
        host.volumes.download(name, tmp_path / "none" / "back")
    host.volumes.delete(name)


def test_what_is_no_volume(host: vmctl.Host) -> None:
    for reference in ("", "/", "/etc/passwd", "a/b/c", "default/", "a\nb"):
        with pytest.raises((UsageError, NotFoundError)):
            host.volumes.create(reference, "1MiB")
    with pytest.raises(NotFoundError, match="no storage pool 'none'"):
        host.volumes.list("none")
    with pytest.raises(UsageError, match="has no unit"):
        host.volumes.create("x", "10")


def test_a_volume_that_leads_out_of_its_pool_is_not_given_to_a_machine(
    host: vmctl.Host, private_host: private.PrivateHost, make_spec: SpecMaker, tmp_path: Path
) -> None:
    """What somebody put there by hand, whose header names files of the host."""
    folder = private_host.state_dir / "lib" / "images"
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0\n" * 100)
    made = {
        "overlay.qcow2": ["-b", str(secret), "-F", "raw", "{}", "1M"],
        "outside.qcow2": ["-o", f"data_file={tmp_path / 'data'}", "{}", "1M"],
        "whole.qcow2": ["{}", "1M"],
    }
    for name, words in made.items():
        command = ["qemu-img", "create", "-q", "-f", "qcow2"]
        subprocess.run(
            [*command, *(word.format(folder / name) for word in words)],
            check=True,
        )
    (folder / "liar.qcow2").write_bytes(b"\0" * 4096)
    open_pool(host._connection, "default").refresh()
    refused = {
        "overlay.qcow2": "lies on .* which is no volume of any pool",
        "outside.qcow2": "keeps its data in another file",
        "liar.qcow2": "is declared as qcow2, and what is in it is raw",
    }
    vm = host.create(make_spec(cloud_init=None))
    try:
        for name, words_of_it in refused.items():
            with pytest.raises(ImageError, match=words_of_it):
                host.create(make_spec(cloud_init=None, disks=[{}, {"volume": name}]))
            with pytest.raises(ImageError, match=words_of_it):
                vm.disks.attach(vmctl.DiskSpec(volume=name))
        with pytest.raises(ImageError, match="is declared as raw, and what is in it is qcow2"):
            vm.disks.attach(vmctl.DiskSpec(volume="overlay.qcow2", format="raw"))
        with pytest.raises(NotFoundError, match="only volumes can be read"):
            vm.disks.attach(vmctl.DiskSpec(volume=str(secret)))
        vm.disks.attach(vmctl.DiskSpec(volume="whole.qcow2"))
        assert [disk.target for disk in vm.disks.list()] == ["vda", "vdb"]
    finally:
        vm.delete()
        for name in (*made, "liar.qcow2"):
            (folder / name).unlink()
        open_pool(host._connection, "default").refresh()
