"""Two clients at one machine: what one of them planned by is another's work by the time it acts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmctl
from vmctl import detours
from vmctl.hypervisor.chains import read_chain
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.render.volume import render_volume

from .test_backup_faults import blank_machine

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]

Between = Callable[[Callable[[], object]], None]


@pytest.fixture
def vm(host: vmctl.Host, tmp_path: Path) -> Iterator[vmctl.VM]:
    """A machine without a guest, off."""
    machine = blank_machine(host, tmp_path)
    yield machine
    machine.delete()


@pytest.fixture
def other(host: vmctl.Host, vm: vmctl.VM) -> Iterator[vmctl.VM]:
    """The same machine, as another client has it."""
    with vmctl.connect(host.uri) as connection:
        yield connection.get(vm.uuid)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Have something done once, after the next piece of work was planned and before it begins."""
    begin = detours.begin

    def meanwhile(act: Callable[[], object]) -> None:
        def begin_late(*given: object, **named: object) -> bool:
            monkeypatch.setattr(detours, "begin", begin)
            act()
            return begin(*given, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(detours, "begin", begin_late)

    return meanwhile


def chain(vm: vmctl.VM) -> list[str]:
    (disk,) = vm._domain.disks()
    return [layer.path for layer in read_chain(vm._domain.connection, disk.path, disk.format)]


def test_a_snapshot_lies_on_what_the_machine_has(
    vm: vmctl.VM, other: vmctl.VM, between: Between, tmp_path: Path
) -> None:
    first = chain(vm)
    between(lambda: other.snapshots.create("theirs", kind="external"))
    with pytest.raises(vmctl.ConflictError, match="in the same moment"):
        vm.snapshots.create("mine", kind="external")
    assert len(chain(vm)) == 2
    vm.snapshots.create("mine")
    assert len(chain(vm)) == 3
    assert chain(vm)[-1:] == first

    # Overlays would lie on a file that something else was merged into.
    between(lambda: other.snapshots.delete("mine"))
    with pytest.raises(vmctl.ConflictError, match="in the same moment"):
        vm.snapshots.revert("mine")
    between(lambda: other.snapshots.revert("theirs"))
    with pytest.raises(vmctl.ConflictError, match="in the same moment"):
        vm.backup(tmp_path / "backups")
    assert [entry.name for entry in vm.snapshots.list()] == ["theirs"]
    vm.snapshots.delete("theirs")
    assert chain(vm) == first


def test_a_restore_takes_no_snapshot_away(
    vm: vmctl.VM, other: vmctl.VM, between: Between, tmp_path: Path
) -> None:
    vm.backup(tmp_path / "backups")
    between(lambda: other.snapshots.create("theirs"))
    with pytest.raises(vmctl.ConflictError, match="in the same moment"):
        vm.restore(tmp_path / "backups")
    vm.snapshots.revert("theirs")
    vm.snapshots.delete("theirs")
    vm.restore(tmp_path / "backups")


def test_a_restore_keeps_what_something_else_lies_on(vm: vmctl.VM, tmp_path: Path) -> None:
    vm.backup(tmp_path / "backups")
    (disk,) = vm._domain.disks()
    volume = StoredVolume(vm._domain.connection, vm._record().volumes[0].pool, "lies-on-it.qcow2")
    volume.create(
        render_volume(
            volume.name,
            capacity=8 << 20,
            format="qcow2",
            backing_path=disk.path,
            backing_format=disk.format,
        )
    )
    with pytest.raises(vmctl.ConflictError, match=r"needed by .*lies-on-it\.qcow2"):
        vm.restore(tmp_path / "backups")
    volume.delete()
    vm.restore(tmp_path / "backups")
