"""What a new spec means for a machine: which devices it speaks of, what differs, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from lxml import etree

from vmctl.errors import ConflictError, SpecError, UsageError
from vmctl.intent.asking import Intent
from vmctl.intent.assignments import assign, parse, written
from vmctl.intent.differences import Action
from vmctl.intent.drift import pending_in
from vmctl.intent.planning import ChangePlan, Machine, merged, plan_change, recorded_spec
from vmctl.intent.rendering import rendered
from vmctl.intent.rules import When
from vmctl.render.domain import with_macs
from vmctl.render.facts import HostFacts
from vmctl.spec import VMSpec

UUID = "7d1a3c6e-5a0b-4a43-9f0e-2f1f5c1b9d10"
FACTS = HostFacts()
DISKS: dict[str, Any] = {
    "image": "debian-12",
    "disks": [{"size": "5GiB"}, {"size": "1GiB", "serial": "data"}, {"size": "2GiB"}],
}


def spec_of(**fields: Any) -> VMSpec:
    return VMSpec.model_validate({"name": "web", **fields})


def machine_of(spec: VMSpec, *, running: bool = True) -> Machine:
    resolved = with_macs(spec.resolved(), UUID)
    xml = rendered(resolved, facts=FACTS, uuid=UUID, templates=None)
    return Machine(
        name=spec.name,
        uuid=UUID,
        spec=resolved.without_secrets(),
        definition=xml,
        running=xml if running else None,
        facts=FACTS,
    )


def plan_of(before: dict[str, Any], after: dict[str, Any], *, running: bool = True) -> ChangePlan:
    return plan_change(spec_of(**after), machine_of(spec_of(**before), running=running))


def changes(plan: ChangePlan) -> dict[str, tuple[str, Any, Any, str]]:
    return {
        entry.path: (entry.action.value, entry.before, entry.after, entry.when.value)
        for entry in plan.differences
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        DISKS,
        {"profile": "legacy", "floppies": [{}], "cdroms": [{}, {}]},
        {"watchdog": {"model": "i6300esb"}, "graphics": ["vnc"], "max_memory": "4GiB"},
        {"nics": [{"user": True}, {"network": "default", "mac": "52:54:00:00:00:01"}]},
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_the_same_spec_changes_nothing(fields: dict[str, Any], running: bool) -> None:
    plan = plan_of(fields, fields, running=running)
    assert (plan.differences, plan.drift, plan.pending) == ((), (), ())


def test_fields_are_live_or_wait_or_need_a_new_machine() -> None:
    plan = plan_of(
        {"max_vcpus": 4},
        {
            "max_vcpus": 4,
            "vcpus": 2,
            "memory": "2GiB",
            "cpu": {"model": "qemu64"},
            "watchdog": {"model": "i6300esb"},
            "labels": {"role": "db"},
            "firmware": "uefi",
        },
    )
    assert changes(plan) == {
        "vcpus": ("change", 1, 2, "live"),
        "memory": ("change", "1GiB", "2GiB", "live"),
        "cpu.model": ("change", None, "qemu64", "next start"),
        "watchdog": ("change", None, {"model": "i6300esb", "action": "reset"}, "next start"),
        "labels.role": ("change", None, "db", "live"),
        "firmware.type": ("change", "bios", "uefi", "anew"),
    }
    assert all(entry.why for entry in plan.those(When.NEXT_START, When.ANEW))


def test_nothing_is_live_in_a_machine_that_is_off() -> None:
    plan = plan_of({}, {"memory": "2GiB", "autostart": True}, running=False)
    assert changes(plan)["memory"][3] == "next start"
    assert changes(plan)["autostart"][3] == "live"


def test_a_disk_is_told_by_what_it_is() -> None:
    without_data = {**DISKS, "disks": [DISKS["disks"][0], DISKS["disks"][2]]}
    found = changes(plan_of(DISKS, without_data))
    assert list(found) == ["disks.vdb"]
    assert found["disks.vdb"][0] == Action.REMOVE

    bigger = {**DISKS, "disks": [*DISKS["disks"][:2], {"size": "3GiB"}, {"size": "9GiB"}]}
    found = changes(plan_of(DISKS, bigger))
    assert found["disks.vdc.size"] == ("change", "2GiB", "3GiB", "live")
    assert found["disks.vdd"][0] == Action.ADD


def test_a_disk_is_not_guessed() -> None:
    twins = {"disks": [{"size": "5GiB"}, {"size": "1GiB"}, {"size": "1GiB"}, {"size": "2GiB"}]}
    fewer = {"disks": [{"size": "5GiB"}, {"size": "1GiB"}, {"size": "2GiB"}]}
    with pytest.raises(SpecError) as caught:
        plan_of(twins, fewer)
    assert caught.value.problems[0].path == "disks[1]"
    named = {"disks": [*fewer["disks"][:1], {"size": "1GiB", "target": "vdc"}, fewer["disks"][2]]}
    assert list(changes(plan_of(twins, named))) == ["disks.vdb"]


def test_a_disk_does_not_shrink() -> None:
    assert changes(plan_of({"disks": [{"size": "5GiB"}]}, {"disks": [{"size": "4GiB"}]})) == {
        "disks.vda.size": ("change", "5GiB", "4GiB", "anew")
    }


def test_a_disk_that_has_grown_stays_so_where_the_spec_says_no_size() -> None:
    grown = {"image": "debian-12", "disks": [{"size": "5GiB"}]}
    assert changes(plan_of(grown, {"image": "debian-12"})) == {}
    assert changes(plan_of(grown, {"image": "debian-12", "disks": [{}]})) == {}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("100MiB", {"disks.vda.size": ("change", "512MiB", "100MiB", "anew")}),
        ("512MiB", {}),
        ("1GiB", {"disks.vda.size": ("change", "512MiB", "1GiB", "live")}),
    ],
)
def test_a_disk_that_is_as_large_as_its_image_is_measured(
    size: str, expected: dict[str, tuple[str, Any, Any, str]]
) -> None:
    plan = plan_change(
        spec_of(image="debian-12", disks=[{"size": size}]),
        machine_of(spec_of(image="debian-12")),
        size_of={"vda": 512 << 20}.get,
    )
    assert changes(plan) == expected


def test_a_nic_keeps_its_address_when_another_goes() -> None:
    before = {"nics": [{"user": True}, {"network": "default"}]}
    first, _second = recorded_spec(machine_of(spec_of(**before))).nics
    found = changes(plan_of(before, {"nics": [{"network": "default"}]}))
    assert list(found) == [f"nics.{first.mac}"]
    assert found[f"nics.{first.mac}"][0] == Action.REMOVE


def test_processors_that_can_come_may_stay() -> None:
    assert changes(plan_of({"vcpus": 4}, {"vcpus": 2})) == {"vcpus": ("change", 4, 2, "live")}


def test_secrets_that_come_are_named_without_being_shown() -> None:
    with_file = {"cloud_init": {"write_files": [{"path": "/a", "content": "s3cret"}]}, "image": "x"}
    plan = plan_of({"image": "x"}, with_file)
    assert {entry.when for entry in plan.differences} == {When.ANEW}
    assert "s3cret" not in repr(plan)


def test_drift_is_what_somebody_else_changed() -> None:
    spec = spec_of(**DISKS)
    machine = machine_of(spec)
    drifted = machine.definition.replace("model type='vga'", "model type='cirrus'").replace(
        "<on_crash>destroy", "<on_crash>restart"
    )
    drifted = drifted.replace("</devices>", "<hostdev type='usb'/></devices>")
    plan = plan_change(
        spec,
        Machine(**{**machine.__dict__, "definition": drifted, "running": machine.definition}),
    )
    assert {(entry.path, entry.expected, entry.actual) for entry in plan.drift} == {
        ("video.model", "vga", "cirrus"),
        ("on_crash", "destroy", "restart"),
        ("hostdevs.0", "", "usb"),
    }
    assert {entry.path for entry in plan.pending} >= {"video.model", "on_crash"}
    assert plan.differences == ()


def running_as(machine: Machine, *changes: tuple[str, str]) -> Machine:
    xml = machine.definition
    for old, new in changes:
        assert old in xml
        xml = xml.replace(old, new)
    return replace(machine, running=xml)


def test_what_libvirt_says_of_an_empty_drive_that_runs_waits_for_nothing() -> None:
    empty = spec_of(cdroms=[{"bus": "scsi"}])
    for change in (" type='raw'", ""), ("<readonly/>", "<source index='5'/><readonly/>"):
        assert plan_change(empty, running_as(machine_of(empty), change)).pending == ()


@pytest.mark.parametrize(
    ("has", "pending"),
    [
        ("262144", []),
        ("263168", []),
        ("261120", []),
        ("131072", ["memory"]),
        ("264192", ["memory"]),
    ],
)
def test_memory_that_was_plugged_in_waits_for_nothing(has: str, pending: list[str]) -> None:
    """A running machine's `memory` is with all that could be plugged in."""
    spec = spec_of(memory="256MiB", max_memory="1GiB")
    machine = running_as(
        machine_of(spec),
        ("<memory unit='KiB'>262144<", "<memory unit='KiB'>1048576<"),
        ("<currentMemory unit='KiB'>262144<", f"<currentMemory unit='KiB'>{has}<"),
    )
    assert [entry.path for entry in plan_change(spec, machine).pending] == pending


def test_another_image_is_one_difference_and_no_contradiction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = machine_of(spec_of(**DISKS))
    intent = Intent(cast(Any, None), record=cast(Any, None), verbs=cast(Any, None))
    monkeypatch.setattr(intent, "_look", lambda: machine)
    wanted = intent.with_values({"image": "debian-13"})
    assert {path: when for path, (*_, when) in changes(plan_change(wanted, machine)).items()} == {
        "image": "anew",
        "disks.vda.image": "anew",
    }


def test_a_record_without_a_spec_is_said() -> None:
    machine = machine_of(spec_of())
    with pytest.raises(ConflictError):
        plan_change(spec_of(), Machine(**{**machine.__dict__, "spec": {}}))


def test_accepted_differences_make_the_new_spec() -> None:
    before = spec_of(**DISKS)
    wanted = {
        **DISKS,
        "memory": "2GiB",
        "disks": [DISKS["disks"][0], DISKS["disks"][2]],
        "watchdog": {},
    }
    machine = machine_of(before)
    plan = plan_change(spec_of(**wanted), machine)
    recorded = recorded_spec(machine)
    everything = merged(recorded, plan.differences)
    again = plan_change(
        spec_of(**wanted), Machine(**{**machine.__dict__, "spec": everything.without_secrets()})
    )
    assert again.differences == ()
    assert merged(recorded, ()).without_secrets() == written(recorded)
    only_live = merged(recorded, plan.those(When.LIVE))
    assert (str(only_live.memory), only_live.watchdog) == ("2GiB", None)
    assert [disk.target for disk in only_live.disks] == ["vda", "vdc"]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("memory=4GiB", "memory", "4GiB"),
        ("vcpus=4", "vcpus", 4),
        ("watchdog=", "watchdog", None),
        ("graphics=[vnc]", "graphics", ["vnc"]),
        ("labels.a.b/c=x=y", "labels.a.b/c", "x=y"),
    ],
)
def test_assignments_are_read(text: str, path: str, value: Any) -> None:
    assert parse(text) == (path, value)


@pytest.mark.parametrize("text", ["memory", "=4", "a=[", "a=\x00"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_field_is_found_by_name_and_by_place() -> None:
    data = written(recorded_spec(machine_of(spec_of(**DISKS))))
    for path, value in (
        ("memory", "2GiB"),
        ("disks.vdb.size", "7GiB"),
        ("disks[0].size", "6GiB"),
        ("labels.app.kubernetes.io/name", "web"),
        ("cpu.model", "qemu64"),
    ):
        assign(data, path, value)
    spec = VMSpec.model_validate(data)
    assert [str(disk.size) for disk in spec.disks] == ["6GiB", "7GiB", "2GiB"]
    assert spec.labels == {"app.kubernetes.io/name": "web"}
    assert (str(spec.memory), spec.cpu.model) == ("2GiB", "qemu64")


@pytest.mark.parametrize(
    "path", ["disks.vdz.size", "disks[9].size", "memory.size", "a..b", "", "disks[-1].size"]
)
def test_what_is_not_there_is_said(path: str) -> None:
    data = written(recorded_spec(machine_of(spec_of(**DISKS))))
    with pytest.raises(UsageError):
        assign(data, path, 1)


def test_what_a_running_machine_shows_otherwise_is_nothing_that_waits() -> None:
    machine = machine_of(
        spec_of(
            memory="256MiB",
            max_memory="1GiB",
            cdroms=[{}],
            nics=[{"network": "default", "mac": "52:54:00:00:00:01"}],
        )
    )
    root = etree.fromstring(machine.definition)
    # 100 MiB are plugged in by virtio-mem, as nearly as its blocks allow.
    root.find("memory").text = str(1 << 20)  # type: ignore[union-attr]
    root.find("currentMemory").text = str((256 << 10) + 1024)  # type: ignore[union-attr]
    root.find("devices/interface/source").set("bridge", "virbr0")  # type: ignore[union-attr]
    drive = root.find("devices/disk[@device='cdrom']")
    assert drive is not None
    for driver in drive.findall("driver"):
        drive.remove(driver)
    running = etree.tostring(root, encoding="unicode")
    assert pending_in(machine.definition, running) == []
    root.find("currentMemory").text = str(128 << 10)  # type: ignore[union-attr]
    (entry,) = pending_in(machine.definition, etree.tostring(root, encoding="unicode"))
    assert (entry.path, entry.expected, entry.actual) == ("memory", "262144KiB", "131072KiB")


def test_a_size_that_is_not_written_is_no_difference() -> None:
    fields = {"image": "debian-12", "disks": [{}, {"size": "1GiB"}]}
    grown = {**fields, "disks": [{"size": "9GiB"}, {"size": "1GiB"}]}
    assert changes(plan_of(grown, fields)) == {}
    assert changes(plan_of(fields, grown))["disks.vda.size"][:3] == ("change", None, "9GiB")


def test_the_root_disk_is_not_taken_away_by_a_spec() -> None:
    before = {"disks": [{"size": "5GiB"}, {"size": "1GiB", "serial": "data"}]}
    plan = plan_of(before, {"disks": [{"size": "1GiB", "serial": "data"}]})
    (entry,) = [one for one in plan.differences if one.path == "disks.vda"]
    assert (entry.action, entry.when) == (Action.REMOVE, When.ANEW)
    assert "vmctl disk detach --force" in entry.why
