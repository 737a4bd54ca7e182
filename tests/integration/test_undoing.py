"""What a launch leaves when it is undone, interrupted, or can't be undone: images above all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl import bases
from vmctl.errors import HypervisorError
from vmctl.hypervisor import private
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.inspection import inspect

from .conftest import pool_volumes

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

SpecMaker = Callable[..., vmctl.VMSpec]
_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def own_image(micro_image: str, tmp_path: Path) -> str:
    """An image that no other test brings into the pool."""
    image = tmp_path / "own.qcow2"
    shutil.copy(micro_image, image)
    with image.open("ab") as file:
        file.write(os.urandom(512))
    return str(image)


def base_of(image: str) -> str:
    return bases.base_name(inspect(image))


@pytest.fixture
def remove_base(host: vmctl.Host, own_image: str) -> Callable[[], None]:
    def remove() -> None:
        host._connection.raw.storagePoolLookupByName("default").storageVolLookupByName(
            base_of(own_image)
        ).delete(0)

    return remove


def test_what_can_not_be_undone_is_named_and_gc_goes_on_with_it(
    host: vmctl.Host, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoredVolume.delete

    def broken(self: StoredVolume) -> bool:
        if self.name.endswith(".vda.qcow2"):
            raise HypervisorError("the disk is in the way", hint="take it out")
        return real(self)

    monkeypatch.setattr(StoredVolume, "delete", broken)
    spec = make_spec(cloud_init={"runcmd": ["false"]})
    with pytest.raises(vmctl.RollbackError, match="not all of it could be undone") as caught:
        host.launch(spec)
    (left,) = caught.value.left
    assert ".vda.qcow2" in left
    assert "it failed because: cloud-init failed" in caught.value.details
    assert "the disk is in the way" in caught.value.details
    assert isinstance(caught.value.__cause__, vmctl.ProvisioningError)
    assert host.get(spec.name).info().phase == "deleting"
    with pytest.raises(vmctl.RollbackError):
        host.gc()

    monkeypatch.undo()
    (found,) = host.gc(dry_run=True)
    assert (found.name, found.phase) == (spec.name, "deleting")
    assert [entry.name for entry in host.gc()] == [spec.name]


def test_an_image_that_another_machine_came_to_use_stays(
    host: vmctl.Host, make_spec: SpecMaker, own_image: str, remove_base: Callable[[], None]
) -> None:
    others: list[vmctl.VM] = []

    def bring_another(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("ssh", "begin"):
            others.append(host.launch(make_spec(image=own_image), wait=False))

    spec = make_spec(image=own_image, cloud_init={"runcmd": ["false"]})
    with pytest.raises(vmctl.ProvisioningError):
        host.launch(spec, progress=bring_another)
    assert base_of(own_image) in pool_volumes(host)
    (other,) = others
    other.wait()
    assert other.run("true").exit_status == 0
    other.delete()
    remove_base()


def test_an_upload_whose_client_was_killed_is_taken_over(
    host: vmctl.Host,
    make_spec: SpecMaker,
    own_image: str,
    remove_base: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec(image=own_image)
    # The tenth change of a launch is in the middle of the upload (test_killed_client).
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.killing_client", host.uri, "20"],
        input=spec.to_yaml(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert (done.returncode, "virStreamSend" in done.stdout) == (-signal.SIGKILL, True)
    base = base_of(own_image)
    assert base in pool_volumes(host)
    assert not bases.is_complete(_pool(host), base)

    monkeypatch.setattr(bases, "_STALLED_SECONDS", 1.0)
    vm = host.launch(make_spec(image=own_image))
    assert bases.is_complete(_pool(host), base)
    # What the dead one brought is in use by now, and stays when it is removed.
    assert [entry.name for entry in host.gc()] == [spec.name]
    assert base in pool_volumes(host)
    assert vm.run("true").exit_status == 0
    vm.delete()
    remove_base()


def _pool(host: vmctl.Host) -> Pool:
    return open_pool(host._connection, "default")


def test_an_image_of_others_that_was_not_seen_at_first_is_not_brought(
    host: vmctl.Host,
    make_spec: SpecMaker,
    own_image: str,
    remove_base: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a folder that two hosts share: the file is there, and the pool was not refreshed."""
    host.create(make_spec(image=own_image)).delete()
    base = base_of(own_image)
    real = StoredVolume.exists
    blind = [True]

    def exists(self: StoredVolume) -> bool:
        return not (self.name == base and blind) and real(self)

    def refresh(self: Pool) -> None:
        blind.clear()

    complete = bases.is_complete
    monkeypatch.setattr(bases, "refuse_without_room", lambda _pool, _image: None)
    monkeypatch.setattr(bases, "is_complete", lambda p, v: not blind and complete(p, v))
    monkeypatch.setattr(StoredVolume, "exists", exists)
    monkeypatch.setattr(Pool, "refresh", refresh)
    spec = make_spec(image=own_image, cloud_init={"runcmd": ["false"]})
    with pytest.raises(vmctl.ProvisioningError):
        host.launch(spec)
    monkeypatch.undo()
    assert base in pool_volumes(host)
    remove_base()


def test_a_file_that_is_exchanged_after_it_was_looked_at(
    host: vmctl.Host, make_spec: SpecMaker, own_image: str, micro_image: str, tmp_path: Path
) -> None:
    """What QEMU will open is looked at, and not what lay there a moment before."""
    evil = tmp_path / "evil.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", micro_image]
    subprocess.run([*command, str(evil)], check=True)
    os.truncate(evil, Path(own_image).stat().st_size)

    def exchange(progress: vmctl.Progress) -> None:
        if (progress.phase, progress.state) == ("define", "begin"):
            evil.replace(own_image)

    with pytest.raises(vmctl.ImageError, match="changed while it was being read"):
        host.launch(make_spec(image=own_image), progress=exchange)


def test_the_seed_is_for_the_hypervisor_alone(
    private_host: private.PrivateHost, host: vmctl.Host, make_spec: SpecMaker
) -> None:
    vm = host.create(make_spec(cloud_init={"runcmd": ["echo s3cret"]}))
    (seed,) = (private_host.state_dir / "lib" / "images").glob(f"*{vm.uuid}*seed.iso")
    assert seed.stat().st_mode & 0o777 == 0o600
    assert b"s3cret" in seed.read_bytes()
    assert "s3cret" not in vm.xml()
    vm.start()
    assert seed.stat().st_mode & 0o077 == 0
    vm.delete()
    assert not seed.exists()


def launch_and_signal(
    host: vmctl.Host, spec: vmctl.VMSpec, folder: Path, *, at: str, number: signal.Signals
) -> tuple[int, str]:
    """Launch by the command line, and send it a signal when it comes to a phase.

    Returns:
        Its exit code, and what it said from then on.
    """
    file = folder / "spec.yaml"
    file.write_text(spec.to_yaml())
    with subprocess.Popen(
        [sys.executable, "-m", "vmctl.cli.main", "-v", "-c", host.uri, "launch", str(file)],
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stderr is not None
        for line in client.stderr:
            if line.startswith(f"{spec.name}: {at}"):
                client.send_signal(number)
                break
        said = client.stderr.read()
        return client.wait(60), said


@pytest.mark.parametrize(
    "signalled",
    [
        (signal.SIGINT, "disks"),
        (signal.SIGTERM, "start"),
        (signal.SIGHUP, "address"),
        (signal.SIGINT, "cloud-init"),
    ],
)
def test_a_signal_to_the_command_line_undoes_the_launch(
    host: vmctl.Host,
    make_spec: SpecMaker,
    own_image: str,
    tmp_path: Path,
    signalled: tuple[signal.Signals, str],
) -> None:
    number, at = signalled
    spec = make_spec(image=own_image, cloud_init={"runcmd": ["sleep 300"]})
    status, said = launch_and_signal(host, spec, tmp_path, at=at, number=number)
    assert status == 128 + number
    assert f"{spec.name}: undo: done" in said
    assert "Traceback" not in said
    with pytest.raises(vmctl.NotFoundError):
        host.get(spec.name)
    assert base_of(own_image) not in pool_volumes(host)


def test_a_signal_while_it_is_undone_does_not_stop_that(
    host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path
) -> None:
    spec = make_spec(cloud_init={"runcmd": ["false"]})
    status, said = launch_and_signal(host, spec, tmp_path, at="undo", number=signal.SIGTERM)
    assert status == 1
    assert "what was begun is being undone" in said
    assert "error: cloud-init failed" in said
    with pytest.raises(vmctl.NotFoundError):
        host.get(spec.name)
