"""Whose network and whose image a machine may use."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmctl import tenancy
from vmctl.errors import ConflictError, NotFoundError, SpecError, UsageError
from vmctl.hypervisor import image_names
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.pools import open_pool
from vmctl.render.fence import fence_values
from vmctl.render.network import render_network
from vmctl.spec import NetworkSpec, NicSpec, VMSpec
from vmctl.spec.names import checked_tenant

WHO = ("", "acme", "umbrella")
NETWORKS: dict[str, dict[str, Any]] = {
    "acme-net": {"tenant": "acme", "ipv4": "10.1.0.0/24"},
    "acme-closed": {"tenant": "acme", "mode": "isolated", "ipv4": "10.4.0.0/24"},
    "plain": {"ipv4": "10.2.0.0/24"},
    "services": {"shared": True, "isolate_guests": True, "ipv4": "10.3.0.0/24"},
}
# By the network, who may join it; `default` is libvirt's own.
MAY = {
    "acme-net": {"acme"},
    "acme-closed": {"acme"},
    "plain": {""},
    "services": {"", "acme", "umbrella"},
    "default": {""},
}


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    made = Connection("test:///default")
    for name, fields in NETWORKS.items():
        spec = NetworkSpec.model_validate({"name": name, **fields})
        made.raw.networkDefineXML(render_network(spec))
    yield made
    made.close()


def nic(**fields: Any) -> NicSpec:
    return NicSpec.model_validate(fields)


@pytest.mark.parametrize(("tenant", "network"), list(product(WHO, MAY)))
def test_who_may_join_what(connection: Connection, tenant: str, network: str) -> None:
    nics = (nic(network="services"), nic(network=network))
    if tenant in MAY[network]:
        tenancy.refuse_foreign_nics(connection, "a", tenant, nics)
        tenancy.refuse_foreign_networks(connection, "a", tenant, [network])
        return
    with pytest.raises(SpecError) as caught:
        tenancy.refuse_foreign_nics(connection, "a", tenant, nics)
    (problem,) = caught.value.problems
    assert problem.path == "nics[1].network"
    assert network in problem.message
    with pytest.raises(ConflictError):
        tenancy.refuse_foreign_networks(connection, "a", tenant, [network])


@pytest.mark.parametrize("fields", [{"user": True}, {"bridge": "br0"}])
def test_a_tenant_has_no_way_past_networks(connection: Connection, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        tenancy.refuse_foreign_nics(connection, "a", "acme", (nic(**fields),))
    tenancy.refuse_foreign_nics(connection, "a", None, (nic(**fields),))


def test_the_fence_of_an_isolated_network_has_no_world(connection: Connection) -> None:
    wide, closed = tenancy.fenced(
        connection, "acme", [nic(network="acme-net"), nic(network="acme-closed")]
    )

    def kept(fenced: NicSpec, address: str) -> bool:
        assert fenced.fence is not None
        to = ip_address(address)
        return any(
            net["version"] == to.version
            and to in ip_network(f"{net['address']}/{net['prefix']}", strict=False)
            for net in fence_values(fenced.fence)["kept"]
        )

    for world in ("198.51.100.7", "2001:db8::7"):
        assert kept(closed, world)
        assert not kept(wide, world)
    assert not kept(closed, "10.4.0.7")
    assert kept(wide, "10.4.0.7")


def test_a_network_that_is_gone_is_for_others_to_say(connection: Connection) -> None:
    tenancy.refuse_foreign_networks(connection, "a", "acme", ["nowhere"])
    with pytest.raises(NotFoundError):
        tenancy.refuse_foreign_nics(connection, "a", "acme", (nic(network="nowhere"),))


@pytest.mark.parametrize(("owner", "tenant"), list(product(WHO, WHO)))
def test_whose_image(owner: str, tenant: str) -> None:
    if owner in {"", tenant}:
        tenancy.refuse_foreign_image("i", owner, tenant)
        return
    with pytest.raises(NotFoundError, match="there is no image 'i'"):
        tenancy.refuse_foreign_image("i", owner, tenant)


@pytest.mark.parametrize(
    "fields",
    [
        {"shared": True},
        {"shared": True, "isolate_guests": True, "tenant": "acme"},
        {"tenant": "Acme"},
        {"tenant": "acme' evil='1"},
        {"tenant": ""},
    ],
)
def test_networks_that_can_never_be(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        NetworkSpec.model_validate({"name": "a", "ipv4": "10.1.0.0/24", **fields})


@given(st.text())
def test_a_tenants_name_is_a_name_or_refused(text: str) -> None:
    """It goes into metadata, notes and messages: it never has anything else in it."""
    try:
        network = NetworkSpec.model_validate({"name": "a", "tenant": text, "ipv4": "10.1.0.0/24"})
    except SpecError:
        with pytest.raises(SpecError):
            VMSpec.model_validate({"name": "a", "tenant": text})
        with pytest.raises(UsageError):
            checked_tenant(text)
        return
    assert text.isascii()
    assert text.replace("-", "a").replace("_", "a").isalnum()
    plain = render_network(network.replace(tenant="a"))
    assert len(list(etree.fromstring(render_network(network)).iter())) == (
        len(list(etree.fromstring(plain).iter()))
    )


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=9),
        st.text(max_size=20),
        max_size=3,
    )
)
def test_labels_never_change_a_document(labels: dict[str, str]) -> None:
    from vmctl.hypervisor.metadata import Phase, Record

    try:
        spec = VMSpec.model_validate({"name": "a", "labels": labels})
    except SpecError:
        return
    xml = Record(uuid="u", phase=Phase.READY, created="", spec=spec.without_secrets()).to_xml()
    assert [node.tag for node in etree.fromstring(xml)] == ["spec"]
    assert Record.from_xml(xml).spec["labels"] == labels


def test_a_name_is_one_tenants(tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(
        f"<node><pool type='dir'><name>default</name><target><path>{tmp_path}</path></target>"
        "</pool></node>"
    )
    host = Connection(f"test://{node}")
    try:
        pool = open_pool(host, "default")
        known = ImageName(name="i", digest="0" * 64, virtual_size=1, tenant="acme")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_names, "read_name", lambda _pool, _name: known)
            image_names.refuse_anothers(pool, "i", "acme")
            for tenant in ("", "umbrella"):
                with pytest.raises(ConflictError, match="is acme's already"):
                    image_names.refuse_anothers(pool, "i", tenant)
    finally:
        host.close()
