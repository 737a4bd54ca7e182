"""What a guest from a shared image costs does not grow with the guests that are there already."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmctl

from ..libvirt_calls import listed

pytestmark = pytest.mark.timeout(300)

SpecMaker = Callable[..., vmctl.VMSpec]


@pytest.fixture
def image(host: vmctl.Host, tmp_path: Path, nothing_left: None) -> Iterator[str]:
    """A small image of this test's own, in the pool; its clones go with it."""
    path = tmp_path / "shared.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    with path.open("ab") as file:
        file.write(str(path).encode())
    before = {entry.name for entry in host.list()}
    made = host.images.import_file(path, name="shared")
    try:
        yield "shared"
    finally:
        for entry in host.list():
            if entry.name not in before:
                host.get(entry.name).delete()
        host.images.remove(made.digest)


def calls_of_launch(host: vmctl.Host, spec: vmctl.VMSpec) -> list[str]:
    """Launch a machine and delete it; returns what its launch asked of libvirt."""
    with listed() as calls:
        vm = host.launch(spec, wait=False)
    assert vm.info().state == "running"
    vm.delete()
    return calls


def test_a_launch_asks_libvirt_the_same_however_many_there_are(
    host: vmctl.Host, make_spec: SpecMaker, image: str
) -> None:
    spec = make_spec(image=image, nics=[])
    host.create(make_spec(image=image, nics=[]))
    second = calls_of_launch(host, spec)
    for _number in range(8):
        host.create(make_spec(image=image, nics=[]))
    assert host.images.info(image).clones == 9
    assert calls_of_launch(host, spec) == second


def test_a_launch_needs_nothing_of_the_pool_after_its_upload(
    host: vmctl.Host, make_spec: SpecMaker, image: str
) -> None:
    """Libvirt then looks through every volume of the pool, and nobody gets at it meanwhile."""
    calls = calls_of_launch(host, make_spec(image=image, nics=[]))
    assert calls.count("virStorageVolUpload") == 1
    after = calls[calls.index("virStorageVolUpload") + 1 :]
    assert "virDomainCreateWithFlags" in after
    assert [name for name in after if name.startswith("virStorage")] == []
