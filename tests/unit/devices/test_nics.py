"""A NIC that can't be attached is refused before anything of it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from vmctl.devices.nics import attach_nic
from vmctl.errors import ConflictError, NotFoundError, VmctlError
from vmctl.hypervisor import names
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.facts import read_facts
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.spec import NicSpec

OWN, OTHER = "11111111-2222-3333-4444-555555555555", "11111111-2222-3333-4444-666666666666"


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection("test:///default")
    yield made
    made.close()


def define(connection: Connection, name: str, uuid: str, *nics: dict[str, Any]) -> Domain:
    spec = {"name": name, "memory": "64MiB", "nics": list(nics)}
    record = Record(uuid=uuid, phase=Phase.READY, created="now", spec=spec)
    xml = (
        f"<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><metadata>{record.to_xml()}</metadata></domain>"
    )
    return names.define(connection, xml, name=name, uuid=uuid)


@pytest.mark.parametrize(
    ("nic", "error", "said"),
    [
        ({"bridge": "nowhere"}, NotFoundError, "the host has no bridge 'nowhere'"),
        (
            {"user": True, "forwards": [{"host": 8080, "guest": 80}]},
            ConflictError,
            "the tcp port 8080 of 0.0.0.0 leads to 'other' already",
        ),
    ],
)
def test_what_is_refused(
    connection: Connection, nic: dict[str, Any], error: type[VmctlError], said: str
) -> None:
    forward = {"host": 8080, "guest": 22, "address": "0.0.0.0"}  # noqa: S104
    mac = "52:54:00:00:00:09"
    other = define(connection, "other", OTHER, {"user": True, "mac": mac, "forwards": [forward]})
    domain = define(connection, "m", OWN)
    facts = replace(read_facts(connection), privileged=True)
    try:
        before = domain.record()
        with pytest.raises(error, match=said):
            attach_nic(domain, NicSpec.model_validate(nic), facts=facts)
        assert domain.record() == before
    finally:
        for made in (domain, other):
            made.raw().undefine()
