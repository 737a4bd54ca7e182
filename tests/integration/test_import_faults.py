"""What may go wrong while something is imported, without a guest: damage, a full pool, a rival."""

from __future__ import annotations

import hashlib
import lzma
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

import vmctl
from tests.http_server import serving
from vmctl.cli.root import root
from vmctl.hypervisor import private
from vmctl.imaging.bundle import BundledFile, Manifest, Writer
from vmctl.imaging.ovf_writing import ExportedDisk, describe_machine, write_ova
from vmctl.progress import Phase
from vmctl.spec import DiskBus, VMSpec

from .conftest import enter_host, snapshot_of_host

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

_ROOT = Path(__file__).resolve().parents[2]
SIZE = 8 << 20
PHASE = Phase("m", "export", None)
SPEC = {"name": "faulty", "memory": "64MiB", "nics": [], "disks": [{"size": f"{SIZE}B"}]}


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def disk(path: Path, kind: str, *options: str, data: int = 3 << 20, keep: float = 1.0) -> Path:
    """Make a disk with data in it, and cut its end off."""
    raw = path.with_suffix(".content")
    raw.write_bytes(os.urandom(data))
    os.truncate(raw, SIZE)
    command = ["qemu-img", "convert", "-f", "raw", "-O", kind, *options, str(raw), str(path)]
    subprocess.run(command, check=True)
    raw.unlink()
    os.truncate(path, int(path.stat().st_size * keep))
    return path


def bundle(folder: Path, content: Path, **changes: object) -> Path:
    path = folder / "faulty.vmctl"
    file = BundledFile(
        role="disk",
        size=content.stat().st_size,
        target="vda",
        format="qcow2",
        virtual_size=SIZE,
    )
    files = (BundledFile(**(vars(file) | changes)),)
    with path.open("wb") as target:
        writer = Writer(target, Manifest(spec=SPEC, files=files))
        writer.add(content, folder, PHASE)
        writer.finish()
    return path


def ova(folder: Path, content: Path) -> Path:
    path = folder / "faulty.ova"
    described = ExportedDisk(
        name="faulty-disk1.vmdk",
        size=content.stat().st_size,
        virtual_size=SIZE,
        bus=DiskBus.SATA,
    )
    text = describe_machine(VMSpec.model_validate(SPEC), [described])
    with path.open("wb") as target:
        write_ova(target, "faulty", text, [(described.name, content)], PHASE)
    return path


def test_disks_that_were_cut_off_are_not_imported(host: vmctl.Host, tmp_path: Path) -> None:
    """qemu-img itself reads what they lack as zeros, and says nothing of it."""
    before = snapshot_of_host(host)
    part = disk(tmp_path / "part.qcow2", "qcow2", keep=0.6)
    sparse = disk(tmp_path / "part.vmdk", "vmdk", keep=0.6)
    vdi = disk(tmp_path / "part.vdi", "vdi", keep=0.6)
    stream = disk(tmp_path / "s.vmdk", "vmdk", "-o", "subformat=streamOptimized", keep=0.6)
    for source in (part, sparse, vdi, bundle(tmp_path, part), ova(tmp_path, stream)):
        with pytest.raises(vmctl.ImageError, match="was cut off"):
            host.import_machine(source, name="faulty")
        assert snapshot_of_host(host) == before, source
    with pytest.raises(vmctl.ImageError, match="was cut off"):
        host.images.import_file(part, name="faulty")
    with pytest.raises(vmctl.ImageError, match="was cut off"):
        host.volumes.upload(part, "faulty.qcow2")
    assert snapshot_of_host(host) == before


def overlay(path: Path) -> Path:
    """Make a qcow2 image that shows a file of the host."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd"]
    subprocess.run([*command, str(path), str(SIZE)], check=True)
    return path


def foreign_extent(path: Path) -> Path:
    """Make a VMDK whose data is a file of the host."""
    made = bytearray(disk(path, "vmdk").read_bytes())
    at, line = made.index(b"RW "), b'RW 16384 FLAT "/etc/passwd" 0\n'
    made[at : at + len(line)] = line
    path.write_bytes(made)
    return path


def test_a_disk_that_leads_to_a_file_of_the_host_is_not_imported(
    host: vmctl.Host, tmp_path: Path, scratch: Path
) -> None:
    """Whatever it comes in, and whoever says that it is something else."""
    before = snapshot_of_host(host)
    over, extent = overlay(tmp_path / "over.qcow2"), foreign_extent(tmp_path / "extent.vmdk")
    backing, other_files = "names a backing file", "extents that are other files"
    sources = {
        over: backing,
        extent: other_files,
        bundle(tmp_path, over): backing,
        ova(tmp_path, extent): other_files,
    }
    for source, said in sources.items():
        with pytest.raises(vmctl.ImageError) as caught:
            host.import_machine(source, name="faulty")
        assert said in str(caught.value), source
        assert "/etc/passwd" in caught.value.details
        assert snapshot_of_host(host) == before, source
        assert [path for path in scratch.rglob("*") if path.is_file()] == []
    # An OVA's disks are VMDK by what it says, and this one isn't.
    with pytest.raises(vmctl.ImageError, match=backing):
        host.import_machine(ova(tmp_path, over), name="faulty")
    body = lzma.compress(over.read_bytes())
    digest = hashlib.sha256(body).hexdigest()
    with serving() as server:
        server.page("/over.qcow2.xz", body)
        url = server.url("/over.qcow2.xz")
        with pytest.raises(vmctl.ImageError, match="not fit to be used") as caught:
            host.images.pull(url, sha256=digest)
        assert backing in caught.value.details
        with pytest.raises(vmctl.ImageError, match="not fit to be used"):
            host.create(VMSpec.model_validate({"name": "x", "image": f"{url}#sha256={digest}"}))
    assert snapshot_of_host(host) == before


def test_a_bundle_whose_disk_is_not_what_it_says(host: vmctl.Host, tmp_path: Path) -> None:
    before = snapshot_of_host(host)
    whole = disk(tmp_path / "whole.qcow2", "qcow2")
    with pytest.raises(vmctl.ImageError, match=f"has {SIZE} bytes, and it says {1 << 40}"):
        host.import_machine(bundle(tmp_path, whole, virtual_size=1 << 40))
    assert snapshot_of_host(host) == before


def test_a_disk_that_is_larger_than_the_pool_is_warned_of(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    tmp_path: Path,
    small_pool: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At every way in; what fits is taken without a word."""

    def empty(size: str) -> Path:
        path = tmp_path / f"{size}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size], check=True)
        return path

    def machine(**disk: str) -> VMSpec:
        return VMSpec.model_validate({**SPEC, "disks": [disk]})

    with vmctl.connect(f"private:{private_host.name}", pool=small_pool) as there:

        def warned() -> list[bool]:
            found = [
                f"more than all of the pool '{small_pool}'" in text for text in caplog.messages
            ]
            caplog.clear()
            return found

        for size, outgrows in (("4M", False), ("1T", True)):
            image, said = empty(size), [True] if outgrows else []
            there.import_machine(image, name="faulty").delete()
            assert warned() == said
            there.create(machine(image=str(image))).delete()
            assert warned() == said
            there.create(machine(size=f"{size}iB")).delete()
            assert warned() == said
            there.volumes.upload(image, "uploaded.qcow2")
            there.volumes.delete("uploaded.qcow2")
            assert warned() == said
            assert there.images.import_file(image, name="faulty").outgrows_pool is outgrows
            there.images.remove("faulty")
        words = ["-c", f"private:{private_host.name}", "--pool", small_pool, "image", "import"]
        done = CliRunner().invoke(root, [*words, str(image), "--name", "faulty"])
        assert done.exit_code == 0, done.stderr
        assert "warning: a disk of it has 1 TiB, more than all of the pool" in done.stderr
        there.images.remove("faulty")


@contextmanager
def filling(private_host: private.PrivateHost, phase: str) -> Iterator[Callable[..., None]]:
    """Give what takes all the space of the small pool once a phase has begun to write to it."""
    enter, path = enter_host(private_host), "/var/lib/libvirt/small/somebody-elses"
    taken = False

    def take(report: vmctl.Progress) -> None:
        nonlocal taken
        if report.phase == phase and report.fraction and not taken:
            taken = True
            command = [*enter, "dd", "if=/dev/zero", f"of={path}", "bs=64k"]
            assert (
                b"No space left" in subprocess.run(command, check=False, capture_output=True).stderr
            )

    try:
        yield take
        assert taken
    finally:
        subprocess.run([*enter, "rm", "-f", path], check=True)


def test_a_pool_that_fills_up_meanwhile(
    private_host: private.PrivateHost, host: vmctl.Host, tmp_path: Path, small_pool: str
) -> None:
    """There was room when it began; the fixture sees that nothing stays in the pool."""
    before = snapshot_of_host(host)
    source = disk(tmp_path / "whole.qcow2", "qcow2")
    said = f"the pool '{small_pool}' has no room"
    with vmctl.connect(f"private:{private_host.name}", pool=small_pool) as other:
        with (
            filling(private_host, "upload") as take,
            pytest.raises(vmctl.ResourceError, match=said),
        ):
            other.images.import_file(source, name="faulty", progress=take)
        assert other.images.list() == []
        for path in (source, bundle(tmp_path, source)):
            with (
                filling(private_host, "disks") as take,
                pytest.raises(vmctl.ResourceError, match=said),
            ):
                other.import_machine(path, name="faulty", progress=take)
            assert snapshot_of_host(host) == before
            assert other.gc() == []
        # With the space back, it is as if nothing had been.
        other.import_machine(source, name="faulty").delete()


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of the client's with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_client_whose_disk_fills_up(
    host: vmctl.Host, tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = disk(tmp_path / "whole.qcow2", "qcow2")
    vm = host.import_machine(source, name="faulty")
    before = snapshot_of_host(host)

    def fill(report: vmctl.Progress) -> None:
        full = small_folder / "full"
        if report.detail.startswith(("downloading", "unpacking")) and not full.exists():
            room = os.statvfs(small_folder)
            full.write_bytes(bytes((room.f_bavail - 8) * room.f_bsize))

    # In the end the file is as large as the disk; on its way the disk is there twice.
    for target, temporary in ((small_folder, tmp_path), (tmp_path, small_folder)):
        monkeypatch.setenv("TMPDIR", str(temporary))
        with pytest.raises(vmctl.ResourceError, match="there is no room for"):
            vm.export(target / "x.vmctl", format="bundle", progress=fill)
        assert not (target / "x.vmctl").exists()
        (small_folder / "full").unlink()
        assert [path for path in small_folder.rglob("*") if path.is_file()] == []
        assert vm._record().exported_by is None
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(vmctl.ResourceError, match="can't write to the folder"):
        vm.export(Path("/proc/x.qcow2"))
    path = bundle(tmp_path, source)
    monkeypatch.setenv("TMPDIR", str(small_folder))
    with pytest.raises(vmctl.ResourceError, match="there is no room for"):
        host.import_machine(path, name="faulty-b", progress=fill)
    assert snapshot_of_host(host) == before
    vm.delete()


def die_at(host: private.PrivateHost, at: int, *what: str) -> tuple[int, str]:
    """Run the client that kills itself; returns its status and what it said last."""
    client = [sys.executable, "-m", "tests.integration.killing_client"]
    done = subprocess.run(
        [*client, f"private:{host.name}", str(at), *what],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


def test_sigkill_in_an_import(
    private_host: private.PrivateHost, host: vmctl.Host, tmp_path: Path, scratch: Path
) -> None:
    content = disk(tmp_path / "whole.qcow2", "qcow2", data=256 << 10)
    what = ("import", str(bundle(tmp_path, content)))
    before = snapshot_of_host(host)
    status, said = die_at(private_host, 0, *what)
    assert status == 0
    host.get("faulty").delete()
    points = int(said)
    assert points > 10
    for at in range(1, points + 1, max(1, points // 6)):
        status, said = die_at(private_host, at, *what)
        assert status == -signal.SIGKILL, said
        made = snapshot_of_host(host)
        left = host.gc()
        assert [entry.name for entry in left] == ["faulty"] * (made != before), (at, said)
        assert snapshot_of_host(host) == before, (at, said)
    # What they had unpacked on the client goes with the next one.
    host.import_machine(what[1]).delete()
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_sigkill_in_an_export(
    private_host: private.PrivateHost, host: vmctl.Host, tmp_path: Path, scratch: Path
) -> None:
    vm = host.create(VMSpec.model_validate(SPEC | {"cloud_init": None}))
    target = tmp_path / "out" / "faulty.vmctl"
    target.parent.mkdir()
    before = snapshot_of_host(host)
    what = ("export", vm.name, str(target))
    status, said = die_at(private_host, 0, *what)
    assert status == 0
    target.unlink()
    # Before and after the claim is written, and before it is taken back.
    for at in (1, 2, int(said) - 1):
        status, said = die_at(private_host, at, *what)
        assert status == -signal.SIGKILL, said
        assert not target.exists()
        assert host.gc() == []
        vm.start()
        vm.stop(timeout=0, force=True)
    assert snapshot_of_host(host) == before
    vm.export(target, format="bundle")
    assert list(target.parent.iterdir()) == [target]
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    vm.delete()


def test_two_imports_of_one_name_at_once(host: vmctl.Host, tmp_path: Path) -> None:
    source = bundle(tmp_path, disk(tmp_path / "whole.qcow2", "qcow2"))
    before = snapshot_of_host(host)
    both = threading.Barrier(2, timeout=120)
    made: list[vmctl.VM] = []
    failed: list[vmctl.VmctlError] = []

    def wait_for_the_other(report: vmctl.Progress) -> None:
        if (report.phase, report.state) == ("define", "begin"):
            both.wait()

    def import_it() -> None:
        try:
            made.append(host.import_machine(source, progress=wait_for_the_other))
        except vmctl.VmctlError as error:
            failed.append(error)

    threads = [threading.Thread(target=import_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (vm,), (error,) = made, failed
    assert isinstance(error, vmctl.ConflictError)
    assert "there is a machine 'faulty' already" in error.brief
    # The one that came too late took nothing away from the other.
    owned = {entry.name for entry in vm._record().volumes}
    assert snapshot_of_host(host)[1] - before[1] == owned
    vm.delete()
    assert snapshot_of_host(host) == before
