"""What is known of an image, against the machine that is to boot it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from vmctl import bases, obtaining
from vmctl.errors import SpecError
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.pools import Pool
from vmctl.obtaining import obtain
from vmctl.progress import Reporter
from vmctl.spec import FirmwareType

_POOL = cast("Pool", None)
_KNOWN = ImageName(name="ours", digest="a" * 64, virtual_size=1 << 20, firmware="uefi")


def _obtain(firmware: FirmwareType | None) -> Any:
    return obtain(_POOL, "ours", reporter=Reporter("x", None), arch="x86_64", firmware=firmware)


@pytest.fixture
def in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obtaining, "read_name", lambda _pool, _name: _KNOWN)
    monkeypatch.setattr(bases, "is_complete", lambda _pool, _volume: True)


@pytest.mark.usefixtures("in_the_pool")
def test_an_image_that_needs_uefi_is_not_booted_by_bios() -> None:
    with pytest.raises(SpecError, match="can't boot its image") as caught:
        _obtain(FirmwareType.BIOS)
    (problem,) = caught.value.problems
    assert (problem.path, "needs uefi" in problem.message) == ("firmware.type", True)
    assert "firmware: uefi" in caught.value.hint


@pytest.mark.usefixtures("in_the_pool")
@pytest.mark.parametrize("firmware", [FirmwareType.UEFI, None])
def test_a_machine_with_uefi_and_a_second_disk_may_have_it(firmware: FirmwareType | None) -> None:
    assert _obtain(firmware) == _KNOWN


def test_so_it_is_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(obtaining, "read_name", lambda _pool, _name: None)
    (tmp_path / "vmctl").mkdir()
    entry = "{name: ours, url: 'https://nowhere.example/x', unverified: true, firmware: uefi}"
    (tmp_path / "vmctl" / "images.yaml").write_text(f"images: [{entry}]\n")
    with pytest.raises(SpecError, match="can't boot its image"):
        _obtain(FirmwareType.BIOS)
