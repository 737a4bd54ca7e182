"""A libvirtd that is killed just as a merging begins, or ends, and can't read what it wrote."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree

import vmctl
from vmctl.doctor import examine
from vmctl.hypervisor import blockjobs, private
from vmctl.hypervisor.domains import Domain

from .conftest import libvirtd_pid
from .striking import Arena, Tiny, end_qemu
from .test_snapshot_faults import run_of

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tiny(
    private_host: private.PrivateHost,
    host: vmctl.Host,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Tiny]:
    folder = tmp_path_factory.mktemp("tiny")
    made = Tiny.make(Arena(private_host, host), folder, name="tiny-lost", bios=False)
    yield made
    made.arena.at_rest()
    made.vm.delete()


def _spoil(private_host: private.PrivateHost, domain: Domain, target: str) -> None:
    """Write of a running machine what libvirtd writes between the end of a merging and its own."""
    status = private_host.state_dir / f"run/libvirt/qemu/{domain.name}.xml"
    root = etree.parse(status)
    (node,) = root.findall(f"domain/devices/disk/target[@dev='{target}']")
    mirror = etree.fromstring("<mirror type='file' job=''><format type='raw'/></mirror>")
    etree.SubElement(mirror, "source", file="/any")
    node.addprevious(mirror)
    root.write(status)


def test_a_machine_that_libvirt_loses(
    private_host: private.PrivateHost, host: vmctl.Host, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = tiny.vm
    vm.start()
    tiny.write(1)
    vm.snapshots.create("old", memory=False)
    tiny.write(2)
    pivot = blockjobs.pivot
    stood_still = []

    def and_die(domain: Domain, target: str) -> None:
        before = domain.secret_xml()
        stood_still.append(domain.state().value)
        pivot(domain, target)
        host._connection.raw.defineXML(before)
        _spoil(private_host, domain, target)
        os.kill(libvirtd_pid(private_host), signal.SIGKILL)
        raise vmctl.HostUnavailableError("libvirtd was killed", hint="this test did it")

    with monkeypatch.context() as patched:
        patched.setattr(blockjobs, "pivot", and_die)
        with pytest.raises(vmctl.WrongStateError, match="libvirt has lost 'tiny-lost'") as lost:
            vm.snapshots.delete("old")
    assert stood_still == ["paused"]
    assert vm.uuid in lost.value.hint

    # Nobody starts it a second time, or removes what it has.
    assert vm.state == "shut off"
    for verb in (vm.start, vm.delete, host.gc, vm.snapshots.merge):
        with pytest.raises(vmctl.WrongStateError, match="libvirt has lost"):
            verb()
    (check,) = [it for it in examine(f"private:{private_host.name}") if it.name == "lost"]
    assert check.status == "fail"
    assert vm.name in check.detail

    # When it is ended, as the hint says, nothing is missing.
    end_qemu(vm)
    tiny.arena.at_rest()
    assert tiny.read() == {2}
    tiny.agrees()
    assert vm.snapshots.list() == []
    vm.snapshots.merge()
    assert [len(disk.chain) for disk in vm.info().disks] == [1, 1]
    assert tiny.read() == {2}
    tiny.boots()


def test_a_merging_that_must_not_be_aborted(
    private_host: private.PrivateHost, host: vmctl.Host, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = tiny.vm
    vm.start()
    run = run_of(vm)
    tiny.write(1)
    vm.snapshots.create("old", memory=False)
    tiny.write(2)
    commit = blockjobs.commit

    def and_die(domain: Domain, target: str, **how: Any) -> None:
        commit(domain, target, **how)
        blockjobs.follow(domain, target, seconds=60, tell=lambda _done: None)
        # As it is as long as libvirtd has not written down that the job runs.
        status = private_host.state_dir / f"run/libvirt/qemu/{domain.name}.xml"
        root = etree.parse(status)
        for mirror in root.findall("domain/devices/disk/mirror"):
            mirror.getparent().remove(mirror)  # type: ignore[union-attr]
        root.write(status)
        os.kill(libvirtd_pid(private_host), signal.SIGKILL)
        raise vmctl.HostUnavailableError("libvirtd was killed", hint="this test did it")

    with monkeypatch.context() as patched:
        patched.setattr(blockjobs, "commit", and_die)
        with pytest.raises(vmctl.HostUnavailableError, match="libvirtd was killed"):
            vm.snapshots.delete("old")
    # libvirtd would not have survived that.
    ends = (private_host.state_dir / "supervisor.log").read_text(encoding="utf-8")
    assert f"libvirtd ended with -{signal.SIGSEGV.value}" not in ends
    assert (vm.state, run_of(vm)) == ("running", run)
    tiny.arena.at_rest()
    assert sorted(len(disk.chain) for disk in vm.info().disks) == [1, 2]
    assert vm.snapshots.merge() == 1
    assert tiny.read() == {2}
    tiny.agrees()
    tiny.boots()
