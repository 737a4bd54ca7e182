"""Folders of the host in a real guest: what one side writes, the other reads."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vmctl

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the host that its QEMU, which is another user, can write to."""
    made = Path(tempfile.mkdtemp(prefix="vmctl-share-", dir="/var/tmp"))
    for name in ("fast", "old", "docs"):
        (made / name).mkdir()
        (made / name).chmod(0o777)
        (made / name / "from-host").write_text(f"{name} of the host\n")
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_both_sides_read_what_the_other_writes(
    host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec], folder: Path
) -> None:
    if not {"virtiofs", "9p"} <= host.facts.features:
        pytest.skip("this host's QEMU lacks virtiofs or 9p")
    spec = make_spec(
        shares=[
            {"source": str(folder / "fast"), "target": "fast"},
            {"source": str(folder / "old"), "target": "old", "driver": "9p"},
            {"source": str(folder / "docs"), "target": "docs", "read_only": True},
        ]
    )
    vm = host.launch(spec)
    options = "trans=virtio,version=9p2000.L"
    script = f"""set -e
        modprobe -a virtiofs 9p 9pnet_virtio
        mkdir -p /mnt/fast /mnt/old /mnt/docs
        mount -t virtiofs fast /mnt/fast
        mount -t 9p -o {options} old /mnt/old
        mount -t 9p -o {options},ro docs /mnt/docs
        cat /mnt/fast/from-host /mnt/old/from-host /mnt/docs/from-host
        echo fast of the guest > /mnt/fast/from-guest
        echo old of the guest > /mnt/old/from-guest
        mount -o remount,rw /mnt/docs || true
        if echo no > /mnt/docs/from-guest; then exit 9; fi
        sync"""
    said = vm.run(["sudo", "-n", "sh", "-c", script], check=True).stdout
    assert said == "fast of the host\nold of the host\ndocs of the host\n"
    for name in ("fast", "old"):
        assert (folder / name / "from-guest").read_text() == f"{name} of the guest\n"
    assert [path.name for path in (folder / "docs").iterdir()] == ["from-host"]
    (folder / "fast" / "later").write_text("seen at once\n")
    assert vm.run("cat /mnt/fast/later", check=True).stdout == "seen at once\n"
    vm.delete()
    # Whatever is the machine's goes; a folder of the host is not.
    assert (folder / "fast" / "from-guest").exists()
    left = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, check=False)
    assert left.stdout == b""


def test_a_folder_that_is_not_there(
    host: vmctl.Host, make_spec: Callable[..., vmctl.VMSpec]
) -> None:
    spec = make_spec(
        shares=[{"source": "/nowhere/at/all", "target": "none", "driver": "9p"}], cloud_init=None
    )
    with pytest.raises(vmctl.VmctlError, match="could not start") as caught:
        host.launch(spec)
    assert "/nowhere/at/all" in caught.value.details
    with pytest.raises(vmctl.NotFoundError):
        host.get(spec.name)
