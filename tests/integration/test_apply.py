"""Changing a machine by its spec: live, at its next start, or not at all; seen from both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

import vmctl
from vmctl.errors import ConflictError, SpecError, UsageError
from vmctl.hypervisor import hotplug

from .test_hotplug import soon

SpecMaker = Callable[..., vmctl.VMSpec]

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


def raw_of(host: vmctl.Host, vm: vmctl.VM) -> Any:
    """Return libvirt's own handle, past vmctl."""
    return host._connection.raw.lookupByUUIDString(vm.uuid)


def changes(plan: vmctl.ChangePlan) -> dict[str, str]:
    return {entry.path: entry.when.value for entry in plan.differences}


@pytest.fixture
def machine(host: vmctl.Host, make_spec: SpecMaker) -> Iterator[tuple[vmctl.VM, vmctl.VMSpec]]:
    """A running guest, and the spec that it was launched from."""
    spec = make_spec(
        vcpus=1, max_vcpus=2, labels={"role": "web"}, agent=True, cdroms=[{"bus": "scsi"}]
    )
    vm = host.launch(spec)
    try:
        yield vm, spec
    finally:
        vm.delete()


def test_the_spec_that_it_was_launched_from_changes_nothing(
    host: vmctl.Host, machine: tuple[vmctl.VM, vmctl.VMSpec]
) -> None:
    vm, spec = machine
    before = vm.xml(), vm.xml(inactive=True)
    plan = vm.compare(spec)
    assert (plan.differences, plan.drift, plan.pending) == ((), (), ())
    assert vm.apply(spec).made == ()
    assert (vm.xml(), vm.xml(inactive=True)) == before


def test_a_disk_that_has_grown_is_left_so_and_none_shrinks(
    host: vmctl.Host, machine: tuple[vmctl.VM, vmctl.VMSpec]
) -> None:
    vm, spec = machine
    smaller = spec.replace(disks=[{"size": "64MiB"}])
    assert changes(vm.compare(smaller)) == {"disks.vda.size": "anew"}
    with pytest.raises(ConflictError, match="made anew"):
        vm.apply(smaller)
    assert vm.apply(spec.replace(disks=[{"size": "1GiB"}])).made == ("disks.vda.size",)
    assert vm.apply(spec.replace(labels={"role": "db"})).made == ("labels.role",)
    assert raw_of(host, vm).blockInfo("vda")[0] == 1 << 30
    assert vm.run("cat /sys/block/vda/size").stdout.strip() == str((1 << 30) // 512)


def test_what_can_be_had_now_is_had_now_and_the_rest_at_the_next_start(
    host: vmctl.Host, machine: tuple[vmctl.VM, vmctl.VMSpec]
) -> None:
    vm, spec = machine
    wanted = spec.replace(
        vcpus=2,
        memory="160MiB",
        disks=[{}, {"size": "64MiB", "serial": "data"}],
        nics=[{"user": True}, {"network": "default", "mac": "52:54:00:aa:00:01"}],
        labels={"role": "db"},
        autostart=True,
        watchdog={"model": "i6300esb"},
        balloon={"autodeflate": True, "stats_period": 10},
    )
    plan = vm.compare(wanted)
    assert changes(plan) == {
        "vcpus": "live",
        "memory": "live",
        "disks.vdb": "live",
        "nics.52:54:00:aa:00:01": "live",
        "labels.role": "live",
        "autostart": "live",
        "watchdog": "next start",
        "balloon.autodeflate": "next start",
    }

    # What libvirt has that vmctl does not manage, and what others changed, stays.
    raw = raw_of(host, vm)
    raw.setMetadata(1, "somebody's", None, None, 2)
    definition = etree.fromstring(vm.xml(inactive=True))
    sound = etree.SubElement(definition.find("devices"), "sound", model="ac97")  # type: ignore[arg-type]
    assert sound is not None
    host._connection.raw.defineXML(etree.tostring(definition, encoding="unicode"))

    done = vm.apply(wanted)
    assert set(done.made) == set(changes(plan))
    assert set(done.waiting) == {"watchdog", "balloon.autodeflate"}

    # The guest.
    soon(vm, "nproc", "2")
    soon(vm, "cat /sys/block/vdb/serial", "data")
    soon(vm, "cat /sys/block/vdb/size", str((64 << 20) // 512))
    soon(vm, "grep -hx 52:54:00:aa:00:01 /sys/class/net/*/address", "52:54:00:aa:00:01")
    # libvirt.
    assert raw.vcpusFlags(1) == 2
    assert raw.autostart() == 1
    later = etree.fromstring(vm.xml(inactive=True))
    assert later.find("devices/watchdog[@model='i6300esb']") is not None
    assert later.find("devices/memballoon[@autodeflate='on']") is not None
    assert later.findtext("title") == "somebody's"
    assert later.find("devices/sound[@model='ac97']") is not None
    assert etree.fromstring(vm.xml()).find("devices/watchdog[@model='i6300esb']") is None
    assert vm.info().labels == {"role": "db"}

    # Once more changes nothing; what waits is said, and so is what others did.
    again = vm.compare(wanted)
    assert again.differences == ()
    assert {entry.path for entry in again.drift} == {"sound.model"}
    waiting = {entry.path for entry in again.pending}
    assert waiting == {"watchdog.model", "watchdog.action", "balloon.autodeflate", "sound.model"}
    assert vm.apply(wanted).made == ()

    # Away again: the disk's volume stays until somebody deletes it.
    vm.apply(wanted.replace(disks=[{}], nics=[{"user": True}]))
    assert vm.run("test -e /sys/block/vdb").exit_status == 1
    left = hotplug.definition(vm._domain, later=True).xpath("devices/disk[target/@dev='vdb']")
    assert left == []
    (volume,) = [
        entry.name for entry in host.volumes.list("default") if f"{vm.uuid}.vdb" in entry.name
    ]
    host.volumes.delete(f"default/{volume}")


def test_what_needs_a_new_machine_is_refused_before_anything_is_done(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    vm = host.create(spec)
    try:
        before = vm.xml(inactive=True)
        wanted = spec.replace(memory="256MiB", firmware="uefi")
        with pytest.raises(ConflictError, match="made anew for firmware.type") as caught:
            vm.apply(wanted)
        assert "--skip-anew" in caught.value.hint
        assert vm.xml(inactive=True) == before
        done = vm.apply(wanted, skip_anew=True)
        assert (done.made, done.left) == (("memory",), ("firmware.type",))
        assert raw_of(host, vm).maxMemory() == 256 << 10
        assert changes(vm.compare(wanted)) == {"firmware.type": "anew"}
    finally:
        vm.delete()


def test_a_machine_that_is_off_takes_all_of_it(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec(disks=[{}, {"size": "16MiB", "serial": "one"}, {"size": "16MiB"}])
    vm = host.create(spec)
    try:
        wanted = spec.replace(
            vcpus=3,
            memory="256MiB",
            cpu={"model": "qemu64"},
            on_crash="restart",
            # The last goes; it is told from the other by what it is.
            disks=[{}, {"size": "32MiB", "serial": "one"}],
            nics=[{"network": "default"}],
        )
        done = vm.apply(wanted)
        assert vm.compare(wanted).differences == ()
        root = etree.fromstring(vm.xml(inactive=True))
        assert root.findtext("vcpu") == "3"
        assert root.findtext("cpu/model") == "qemu64"
        assert root.findtext("on_crash") == "restart"
        assert root.xpath("devices/disk[@device='disk']/target/@dev") == ["vda", "vdb"]
        assert root.xpath("devices/interface/@type") == ["network"]
        assert raw_of(host, vm).blockInfo("vdb", 0)[0] == 32 << 20
        assert "disks.vdc" in done.made
        vm.start()
        vm.wait()
        assert vm.run("nproc", check=True).stdout.strip() == "3"
        assert "QEMU Virtual CPU" in vm.run("cat /proc/cpuinfo", check=True).stdout
        for entry in host.volumes.list("default"):
            if f"{vm.uuid}.vdc" in entry.name:
                host.volumes.delete(f"default/{entry.name}")
    finally:
        vm.delete()


def test_the_most_that_there_can_be_is_raised_together_with_what_there_is(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec(vcpus=1, max_vcpus=2, max_memory="512MiB")
    vm = host.create(spec)
    try:
        more = spec.replace(vcpus=4, max_vcpus=4, memory="1GiB", max_memory="2GiB")
        vm.apply(more)
        assert vm.compare(more).differences == ()
        raw = raw_of(host, vm)
        assert (raw.vcpusFlags(2), raw.vcpusFlags(2 | 4)) == (4, 4)
        root = etree.fromstring(vm.xml(inactive=True))
        assert root.findtext("maxMemory") == str(2 << 20)
        assert root.xpath("string(cpu/numa/cell/@memory)") == str(1 << 20)
        vm.apply(spec)
        plan = vm.compare(spec)
        assert (plan.differences, plan.drift) == ((), ())
        assert (raw.vcpusFlags(2), raw.vcpusFlags(2 | 4)) == (1, 2)
        with pytest.raises(vmctl.ResourceError, match="the host has"):
            vm.apply(spec.replace(memory="900TiB", max_memory="1000TiB"))
    finally:
        vm.delete()


def test_a_disk_that_grew_stays_so_where_a_spec_does_not_say(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    vm = host.create(spec)
    try:
        vm.disks.resize("vda", "600MiB")
        assert vm.apply(spec).made == ()
        assert spec_of_record(vm)["disks"][0]["size"] == "600MiB"
        # Its volumes keep their names.
        vm.rename(f"{spec.name}x")
        vm.disks.resize("vda", "640MiB")
        assert spec_of_record(vm)["disks"][0]["size"] == "640MiB"
        renamed = spec.replace(name=f"{spec.name}x", cloud_init={"hostname": spec.name})
        assert vm.apply(renamed).made == ()
    finally:
        vm.delete()


def spec_of_record(vm: vmctl.VM) -> dict[str, Any]:
    record = vm._domain.record()
    assert record is not None
    return record.spec


def test_a_failure_says_what_was_made_and_the_next_run_goes_on(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    vm = host.create(spec)
    try:
        wanted = spec.replace(
            memory="256MiB", disks=[{}, {"volume": "no-such-volume"}], on_crash="restart"
        )
        with pytest.raises(vmctl.NotFoundError) as caught:
            vm.apply(wanted)
        assert "made: memory" in caught.value.details
        assert "not made: disks.vdb, on_crash" in caught.value.details
        assert raw_of(host, vm).maxMemory() == 256 << 10
        assert set(changes(vm.compare(wanted))) == {"disks.vdb", "on_crash"}
        host.volumes.create("default/no-such-volume", size="8MiB")
        vm.apply(wanted)
        assert vm.compare(wanted).differences == ()
    finally:
        vm.delete()
        host.volumes.delete("default/no-such-volume")


def test_fields_are_set_by_their_paths(host: vmctl.Host, make_spec: SpecMaker) -> None:
    spec = make_spec(disks=[{}, {"size": "16MiB"}], labels={"a": "b"})
    vm = host.create(spec)
    try:
        vm.apply(
            vm.with_values(
                {
                    "memory": "224MiB",
                    "vcpus": 2,
                    "disks.vdb.size": "24MiB",
                    "labels.tier/x": "gold",
                }
            )
        )
        assert raw_of(host, vm).maxMemory() == 224 << 10
        assert raw_of(host, vm).blockInfo("vdb", 0)[0] == 24 << 20
        assert vm.info().labels == {"a": "b", "tier/x": "gold"}
        assert vm.apply({"labels.tier/x": None}).made == ("labels.tier/x",)
        assert vm.info().labels == {"a": "b"}
        assert raw_of(host, vm).vcpusFlags(2 | 4) == 2
        assert vm.apply(vm.with_values({"vcpus": 1})).made == ("vcpus",)
        assert (vm.info().vcpus, raw_of(host, vm).vcpusFlags(2 | 4)) == (1, 2)
        with pytest.raises(UsageError):
            vm.with_values({"disks.vdz.size": "1GiB"})
        with pytest.raises(SpecError):
            vm.with_values({"vcpus": "many"})
    finally:
        vm.delete()


def command_line(host: vmctl.Host, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmctl.cli.main", "--uri", host.uri, *words],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def test_on_the_command_line(host: vmctl.Host, make_spec: SpecMaker, tmp_path: Path) -> None:
    spec = make_spec(cloud_init=None)
    vm = host.create(spec)
    file = tmp_path / "spec.yaml"
    file.write_text(spec.replace(memory="224MiB", firmware="uefi").to_yaml())
    try:
        definition = vm.xml(inactive=True).replace(
            "<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>"
        )
        host._connection.raw.defineXML(definition)
        before = vm.xml(inactive=True), vm._domain.record()
        dry = command_line(host, "apply", str(file), "--dry-run", "-f", "json")
        assert dry.returncode == 0, dry.stderr
        assert "on_crash was changed by others, and stays: restart" in dry.stderr
        plan = json.loads(dry.stdout)
        assert {entry["path"]: entry["when"] for entry in plan["differences"]} == {
            "memory": "next start",
            "firmware.type": "anew",
        }
        assert (plan["made"], vm.xml(inactive=True), vm._domain.record()) == ([], *before)
        refused = command_line(host, "apply", str(file))
        assert refused.returncode == 4
        assert "made anew for firmware.type" in refused.stderr
        assert (vm.xml(inactive=True), vm._domain.record()) == before

        done = command_line(host, "set", vm.name, "memory=256MiB", "vcpus=2", "labels.a=b")
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines()[1:]]
        assert {row[0]: row[1:3] for row in rows if row[0] != "labels.a"} == {
            "vcpus": ["1", "2"],
            "max_vcpus": ["1", "2"],
            "memory": ["192MiB", "256MiB"],
        }
        assert (raw_of(host, vm).maxMemory(), vm.info().vcpus) == (256 << 10, 2)
        assert vm.info().labels == {"a": "b"}
        again = command_line(host, "set", vm.name, "memory=256MiB", "vcpus=2", "labels.a=b")
        assert "nothing to change" in again.stderr
        assert "<on_crash>restart</on_crash>" in vm.xml(inactive=True)
    finally:
        vm.delete()


def test_what_somebody_else_changes_meanwhile_is_not_changed_back(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    spec = make_spec()
    vm = host.create(spec)
    try:
        wanted = spec.replace(memory="224MiB")
        values = {"memory": "256MiB", "labels.a": "b"}
        shown, asked = vm.compare(wanted), vm.compare(values)
        vm.disks.attach(vmctl.DiskSpec(size="1MiB"))
        vm.set_autostart(True)
        vm.apply({"labels.c": "d"})
        # All of a spec would take the disk away, which nobody was shown.
        with pytest.raises(ConflictError, match="was changed meanwhile"):
            vm.apply(wanted, plan=shown)
        vm.apply(values, plan=asked)
        assert [disk.target for disk in vm.disks.list()] == ["vda", "vdb"]
        assert (vm.info().labels, vm.autostart) == ({"a": "b", "c": "d"}, True)
        assert raw_of(host, vm).maxMemory() == 256 << 10
    finally:
        vm.delete()


def test_the_password_of_a_display_outlasts_every_change(
    host: vmctl.Host, make_spec: SpecMaker
) -> None:
    vm = host.create(make_spec(graphics=["vnc"]))

    def password() -> str:
        secure = 1 | 2
        root = etree.fromstring(raw_of(host, vm).XMLDesc(secure))
        return str(root.xpath("string(devices/graphics/@passwd)"))

    try:
        vm.screen.set_password("a<&'b\"")
        vm.apply(vm.with_values({"labels.a": "b", "on_crash": "restart"}))
        assert password() == "a<&'b\""
        vm.set_memory("224MiB")
        assert password() == "a<&'b\""
        vm.set_vcpus(3)
        assert password() == "a<&'b\""
        assert vm.screen.displays()[0].password
        vm.screen.remove_password()
        assert (password(), vm.screen.displays()[0].password) == ("", False)
        with pytest.raises(vmctl.NotFoundError):
            vm.screen.remove_password(type="spice")
    finally:
        vm.delete()


def test_a_machine_of_somebody_elses_is_left_alone(host: vmctl.Host) -> None:
    raw = host._connection.raw.defineXML(
        "<domain type='qemu'><name>foreign</name><memory>65536</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    try:
        with pytest.raises(ConflictError, match="not made by vmctl"):
            host.get("foreign").apply(vmctl.VMSpec(name="foreign"))
    finally:
        raw.undefine()
