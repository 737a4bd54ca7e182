"""Disks that two machines have, on libvirt's own test driver, whose machines all run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmctl.errors import ConflictError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.sharing import refuse_disk_in_use, refuse_disks_in_use

_UUIDS = [f"11111111-2222-3333-4444-{number:012}" for number in range(2)]
_NBD = "<source protocol='nbd' name='{name}'><host {host}/></source>"


def disk(source: str, *, kind: str = "file", more: str = "") -> str:
    return (
        f"<disk type='{kind}' device='disk'>{source}<target dev='vdb' bus='virtio'/>{more}</disk>"
    )


def nbd(host: str, name: str = "") -> str:
    return disk(_NBD.format(host=host, name=name).replace(" name=''", ""), kind="network")


_FILE = "<source file='/pool/a'/>"
_SHARED = [
    (disk(_FILE), disk(_FILE)),
    (disk(_FILE, more="<readonly/>"), disk(_FILE)),
    (disk(_FILE), disk(_FILE, more="<readonly/>")),
    (disk(_FILE, more="<shareable/>"), disk(_FILE)),
    (nbd("name='h' port='10809'", "a"), nbd("name='h'", "a")),
    (nbd("transport='unix' socket='/s'"), nbd("transport='unix' socket='/s'")),
    (
        disk("<source pool='default-pool' volume='default-vol'/>", kind="volume"),
        disk("<source file='/default-pool/default-vol'/>"),
    ),
]
_APART = [
    (disk(_FILE), disk("<source file='/pool/b'/>")),
    (disk(_FILE, more="<readonly/>"), disk(_FILE, more="<readonly/>")),
    (disk(_FILE, more="<shareable/>"), disk(_FILE, more="<shareable/>")),
    (nbd("name='h'", "a"), nbd("name='h'", "b")),
    (nbd("name='h'", "a"), nbd("name='g'", "a")),
    (nbd("transport='unix' socket='/s'"), nbd("transport='unix' socket='/t'")),
    (disk("<source pool='gone' volume='gone'/>", kind="volume"), disk(_FILE)),
]


@contextmanager
def two_machines(theirs: str, own: str, folder: Path) -> Iterator[Domain]:
    """Give the second of two machines with such disks."""
    domains = "".join(
        f"<domain type='test'><name>m{number}</name><uuid>{_UUIDS[number]}</uuid>"
        "<memory>65536</memory><os><type>hvm</type></os>"
        f"<devices>{text}</devices></domain>"
        for number, text in enumerate((theirs, own))
    )
    pool = (
        "<pool type='dir'><name>default-pool</name><target><path>/default-pool</path></target>"
        "<volume><name>default-vol</name><capacity>1</capacity></volume></pool>"
    )
    (folder / "node.xml").write_text(f"<node>{domains}{pool}</node>")
    connection = Connection(f"test://{folder}/node.xml")
    try:
        yield Domain(connection, _UUIDS[1], "m1")
    finally:
        connection.close()


@pytest.mark.parametrize(("theirs", "own"), _SHARED)
def test_a_disk_that_another_has_is_refused(theirs: str, own: str, tmp_path: Path) -> None:
    with two_machines(theirs, own, tmp_path) as domain:
        for refuse in (refuse_disks_in_use, lambda domain: refuse_disk_in_use(domain, own)):
            with pytest.raises(ConflictError, match="the machine 'm0' runs and") as caught:
                refuse(domain)
            assert "vmctl disk detach m0 vdb" in caught.value.hint


@pytest.mark.parametrize(("theirs", "own"), _APART)
def test_what_is_another_disk_is_not(theirs: str, own: str, tmp_path: Path) -> None:
    with two_machines(theirs, own, tmp_path) as domain:
        refuse_disks_in_use(domain)
        refuse_disk_in_use(domain, own)
