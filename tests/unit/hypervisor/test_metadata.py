"""The record in a domain's metadata: what is written is what is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.metadata import (
    NAMESPACE,
    OwnedVolume,
    Pending,
    Phase,
    Record,
    Role,
    SnapshotWork,
)
from vmctl.hypervisor.reserved_addresses import ReservedAddress

# What XML 1.0 can hold; the spec refuses anything else before it gets here.
_texts = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=30
)
_numbers = st.integers(min_value=0, max_value=2**40)
_images = st.lists(st.tuples(_texts, _texts), max_size=2).map(tuple)
_claims = st.none() | st.builds(
    Claim,
    client=_texts,
    boot_id=_texts,
    pid_namespace=_texts,
    pid=_numbers,
    started=_numbers,
    token=_texts,
    expires=_numbers,
)
_volumes = st.builds(OwnedVolume, pool=_texts, name=_texts, role=st.sampled_from(Role))
_specs = st.dictionaries(
    st.text(max_size=5), st.recursive(st.text(max_size=9) | st.integers(), st.lists), max_size=3
)
_records = st.builds(
    Record,
    uuid=_texts,
    phase=st.sampled_from(Phase),
    created=_texts,
    owner=_texts,
    spec=_specs,
    volumes=st.lists(_volumes, max_size=3).map(tuple),
    bases=_images,
    brought=_images,
    started_networks=st.lists(_texts, max_size=2).map(tuple),
    addresses=st.lists(
        st.builds(
            ReservedAddress,
            network=_texts,
            mac=_texts,
            address=_texts,
            name=_texts,
            static=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    instance_id=_texts,
    host_key=_texts,
    ssh_user=_texts,
    claim=_claims,
    exported_by=_claims,
    before=st.none() | st.sampled_from(Phase),
    woken=st.booleans(),
    pending=st.none()
    | st.builds(
        Pending,
        device=_texts,
        present=st.booleans(),
        spec=_specs,
        made=st.none() | _volumes,
        base=st.none() | st.tuples(_texts, _texts),
        gone=st.none() | _volumes,
        deletes=st.booleans(),
    ),
    work=st.none()
    | st.builds(
        SnapshotWork,
        snapshot=_texts,
        made=st.lists(_volumes, max_size=2).map(tuple),
        suspended=st.booleans(),
        frozen=st.booleans(),
        sources=st.dictionaries(_texts, _texts, max_size=2),
        going=st.lists(_volumes, max_size=2).map(tuple),
        before=_texts,
    ),
)


@given(_records)
def test_round_trip(record: Record) -> None:
    assert Record.from_xml(record.to_xml()) == record
    assert Record.from_xml(record.to_xml(prefixed=False)) == record


@given(_records)
def test_the_element_is_vmctls_own(record: Record) -> None:
    root = etree.fromstring(record.to_xml())
    assert root.tag == f"{{{NAMESPACE}}}machine"


def test_every_part_may_be_in_the_namespace() -> None:
    """As libvirt writes it back into the domain's XML."""
    text = (
        f'<v:machine xmlns:v="{NAMESPACE}" phase="ready" created="x">'
        '<v:volume pool="p" name="n" role="seed"/><v:spec>{"a":1}</v:spec></v:machine>'
    )
    record = Record.from_xml(text)
    assert record.volume(Role.SEED) == OwnedVolume(pool="p", name="n", role=Role.SEED)
    assert record.volume(Role.DISK) is None
    assert record.spec == {"a": 1}
