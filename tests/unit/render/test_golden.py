"""Golden files: one spec for each behaviour, and what is rendered from it, compared whole.

A case is ``tests/golden/NAME.yaml``. ``NAME.xml`` is its domain, ``NAME.user-data`` and so on its
seed. ``NAME.facts.json`` has what its host is otherwise than in ``default.facts.json``.
``pytest --rewrite-golden`` writes the results; review them as a diff.
"""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree
from pydantic import BaseModel

from vmctl.errors import SpecError, VmctlError
from vmctl.render import (
    FirmwareImage,
    HostFacts,
    Placement,
    SeedIdentity,
    render_domain,
    render_seed,
    with_macs,
)
from vmctl.spec import (
    ConsoleType,
    CrashAction,
    Discard,
    DiskCache,
    DiskIo,
    DiskProtocol,
    EndAction,
    FeaturePolicy,
    InputBus,
    InputType,
    NicModel,
    PanicModel,
    SerialType,
    SoundModel,
    VideoModel,
    VMSpec,
    WatchdogAction,
    WatchdogModel,
)
from vmctl.spec.problems import model_in

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
IMAGES = "/var/lib/libvirt/images"
IDENTITY = SeedIdentity(
    instance_id="iid-golden",
    host_key_private=(
        "-----BEGIN OPENSSH PRIVATE KEY-----\ngolden\n-----END OPENSSH PRIVATE KEY-----\n"
    ),
    host_key_public="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGoldenHost golden",
    authorized_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGoldenClient vmctl",),
)


def facts_of(case: str) -> HostFacts:
    values: dict[str, Any] = json.loads((GOLDEN / "default.facts.json").read_text())
    own = GOLDEN / f"{case}.facts.json"
    if own.exists():
        values |= json.loads(own.read_text())
    values["firmware"] = tuple(FirmwareImage(**image) for image in values["firmware"])
    values["features"] = frozenset(values["features"])
    values["security_models"] = tuple(values.get("security_models", ()))
    values["libvirt_version"] = tuple(values["libvirt_version"])
    values["qemu_version"] = tuple(values["qemu_version"])
    values["machines"] = {arch: tuple(names) for arch, names in values["machines"].items()}
    return HostFacts(**values)


def placement_of(case: str, spec: VMSpec) -> Placement:
    resolved = spec.resolved()
    digest = hashlib.sha256(case.encode()).digest()[:16]
    return Placement(
        uuid=str(uuid.UUID(bytes=digest, version=4)),
        disks=tuple(
            f"{IMAGES}/{disk.volume or f'{spec.name}-{index}.{disk.format}'}"
            for index, disk in enumerate(resolved.disks)
        ),
        disk_formats=tuple(str(disk.format) for disk in resolved.disks),
        cdroms=tuple(_medium(drive.path, drive.volume) for drive in resolved.cdroms),
        floppies=tuple(_medium(drive.path, drive.volume) for drive in resolved.floppies),
        has_seed=resolved.cloud_init is not None,
        seed=f"{IMAGES}/{spec.name}-seed.iso" if resolved.cloud_init is not None else None,
        console_log=f"/var/log/libvirt/qemu/{spec.name}.console.log",
        kernel=resolved.boot.kernel,
        initrd=resolved.boot.initrd,
        nvram=f"{IMAGES}/{spec.name}.nvram" if resolved.firmware.type == "uefi" else None,
        metadata='<vmctl:machine xmlns:vmctl="https://vmctl.dev/xmlns/1"/>',
    )


def _medium(path: str | None, volume: str | None) -> str | None:
    return path or (f"{IMAGES}/{volume}" if volume else None)


def rendered(case: str) -> tuple[str, dict[str, bytes]]:
    return documents(case, VMSpec.load(GOLDEN / f"{case}.yaml"))


def documents(case: str, spec: VMSpec) -> tuple[str, dict[str, bytes]]:
    facts, placement = facts_of(case), placement_of(case, spec)
    domain = render_domain(spec, facts, placement)
    complete = with_macs(spec.resolved(networks=facts.privileged), placement.uuid)
    seed = render_seed(complete, IDENTITY) if complete.cloud_init is not None else {}
    return domain, seed


@cache
def domain_schema() -> etree.RelaxNG:
    assert SCHEMA.exists(), f"{SCHEMA} is missing: install libvirt-daemon-system or libvirt-dev"
    return etree.RelaxNG(etree.parse(SCHEMA))


def compare(path: Path, content: bytes, *, rewrite: bool) -> None:
    if rewrite:
        path.write_bytes(content)
        return
    assert path.exists(), f"{path.name} is missing; --rewrite-golden makes it"
    assert content.decode() == path.read_bytes().decode()


@pytest.mark.parametrize("case", CASES)
def test_case_is_rendered_as_it_was(case: str, rewrite_golden: bool) -> None:
    domain, seed = rendered(case)
    compare(GOLDEN / f"{case}.xml", domain.encode(), rewrite=rewrite_golden)
    for name, content in seed.items():
        compare(GOLDEN / f"{case}.{name}", content, rewrite=rewrite_golden)


@pytest.mark.parametrize("case", CASES)
def test_case_is_valid_by_libvirts_schema(case: str) -> None:
    domain, _ = rendered(case)
    schema = domain_schema()
    assert schema.validate(etree.fromstring(domain)), str(schema.error_log)


@pytest.mark.parametrize("case", CASES)
def test_case_is_the_same_when_it_is_resolved_first(case: str) -> None:
    spec = VMSpec.load(GOLDEN / f"{case}.yaml")
    facts, placement = facts_of(case), placement_of(case, spec)
    resolved = spec.resolved(networks=facts.privileged)
    assert resolved.resolved() == resolved
    assert render_domain(resolved, facts, placement) == render_domain(spec, facts, placement)
    assert VMSpec.from_yaml(resolved.to_yaml()) == resolved
    assert VMSpec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize("case", CASES)
def test_seed_is_cloud_config_of_lines(case: str) -> None:
    for name, content in rendered(case)[1].items():
        lines = content.decode().splitlines()
        values = yaml.safe_load(content)
        if name.endswith("data") and name != "meta-data":
            assert lines.pop(0) == "#cloud-config"
        assert {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in lines} == (
            values
        )


def test_every_file_belongs_to_a_case() -> None:
    stems = {*CASES, "default"}
    kinds = ("yaml", "xml", "facts.json", "user-data", "meta-data", "network-config", "vendor-data")
    expected = {f"{stem}.{kind}" for stem in stems for kind in kinds}
    assert {path.name for path in GOLDEN.iterdir() if path.is_file()} <= expected


def fields_of(model: type[BaseModel], path: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        found.add(f"{path}{name}")
        inner = model_in(field.annotation)
        if inner is not None:
            found |= fields_of(inner, f"{path}{name}.")
    return found


def written_in(model: BaseModel, path: str = "") -> set[str]:
    found = set()
    for name in model.model_fields_set:
        found.add(f"{path}{name}")
        value = getattr(model, name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, BaseModel):
                found |= written_in(inner, f"{path}{name}.")
    return found


def test_every_field_of_the_spec_reaches_a_golden_file() -> None:
    written: set[str] = set()
    for case in CASES:
        written |= written_in(VMSpec.load(GOLDEN / f"{case}.yaml"))
    assert fields_of(VMSpec) - written == set()


# What is told to libvirt, or looked at by vmctl, elsewhere than in these documents.
NOT_RENDERED = {
    "tenant",  # in the record, and in what is refused (test_tenants)
    "labels",  # in the record (test_metadata, and test_lifecycle on a guest)
    "autostart",  # a flag of libvirt's (test_lifecycle)
    "disks.image",  # in the volume's XML, as its backing file (test_volume, test_lifecycle)
    "disks.full_clone",  # in how the volume is made (test_images, on a guest)
    "nics.forwards",  # told to QEMU's monitor after start (test_reaching), with what is in it
    "nics.forwards.address",
    "nics.forwards.protocol",
    "cloud_init.users.ssh_key_files",  # read by the plan into ssh_authorized_keys (test_reaching)
}


def without(data: Any, path: list[str]) -> Any:
    """Return a written spec without one field, wherever it is written."""
    if isinstance(data, list):
        return [without(entry, path) for entry in data]
    if not isinstance(data, dict):
        return data
    if len(path) == 1:
        return {key: value for key, value in data.items() if key != path[0]}
    return {
        key: without(value, path[1:]) if key == path[0] else value for key, value in data.items()
    }


def changes_something(case: str, path: str) -> bool:
    """Return whether a case is rendered otherwise, or not at all, without a field."""
    spec = VMSpec.load(GOLDEN / f"{case}.yaml")
    written = spec.model_dump(mode="json", exclude_unset=True)
    changed = without(written, path.split("."))
    if changed == written:
        return False
    try:
        other = VMSpec.model_validate(changed)
        return documents(case, spec) != documents(case, other)
    except VmctlError:
        return True


@pytest.mark.parametrize("path", sorted(fields_of(VMSpec)))
def test_every_field_makes_a_difference_in_a_golden_file(path: str) -> None:
    assert any(changes_something(case, path) for case in CASES) is (path not in NOT_RENDERED)


def test_there_are_cases_for_what_a_host_decides() -> None:
    text = "".join(path.read_text() for path in GOLDEN.glob("*.xml"))
    assert len(CASES) >= 35
    for value in ("host-passthrough", "host-model", "maximum", "custom", "pflash"):
        assert value in text


SPICE: dict[str, Any] = {"graphics": ["spice"]}
CHOICES: list[tuple[type[StrEnum], str, dict[str, Any]]] = [
    (DiskCache, "disks.0.cache", {"disks": [{"size": "1GiB"}]}),
    (DiskIo, "disks.0.io", {"disks": [{"size": "1GiB", "cache": "none"}]}),
    (Discard, "disks.0.discard", {"disks": [{"size": "1GiB"}]}),
    (
        DiskProtocol,
        "disks.0.network.protocol",
        {"disks": [{"network": {"hosts": "a", "name": "iqn.2025-01.org.example:a/1"}}]},
    ),
    (NicModel, "nics.0.model", {"nics": [{"network": "default"}]}),
    (FeaturePolicy, "cpu.features.0.policy", {"cpu": {"features": ["vmx"]}}),
    (VideoModel, "video.model", {"video": {}} | SPICE),
    (SoundModel, "sound.model", {"sound": {}}),
    (WatchdogModel, "watchdog.model", {"watchdog": {}}),
    (WatchdogAction, "watchdog.action", {"watchdog": {}}),
    (CrashAction, "on_crash", {}),
    (EndAction, "on_reboot", {}),
    (EndAction, "on_poweroff", {}),
    (PanicModel, "panic.model", {"panic": {}}),
    (InputType, "inputs.0.type", {"inputs": [{}]}),
    (InputBus, "inputs.0.bus", {"inputs": [{"type": "mouse"}]}),
    (SerialType, "serials.0.type", {"serials": [{}]}),
    (ConsoleType, "console.type", {"console": {}}),
]


@pytest.mark.parametrize(
    ("path", "base", "value"),
    [(path, base, value) for kind, path, base in CHOICES for value in kind],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_every_choice_is_valid_by_libvirts_schema(
    path: str, base: dict[str, Any], value: str
) -> None:
    data = copy.deepcopy({"name": "a", **base})
    *above, last = path.split(".")
    holder: Any = data
    for part in above:
        holder = holder[int(part)] if part.isdigit() else holder[part]
        if isinstance(holder, list) and isinstance(holder[0], str):
            holder[0] = {"name": holder[0]}
    holder[last] = value
    try:
        spec = VMSpec.model_validate(data)
    except SpecError:
        assert (path, value) == ("video.model", "none")  # a graphics server needs an adapter
        return
    facts = facts_of("nic-forwards")
    domain = render_domain(spec, facts, placement_of("a", spec))
    schema = domain_schema()
    assert schema.validate(etree.fromstring(domain)), str(schema.error_log)
    assert str(value) in domain
