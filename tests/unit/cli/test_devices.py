"""`vmctl disk`, `nic` and `cdrom`, against libvirt's own test driver."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

Vmctl = Callable[..., Result]
Own = tuple[str, str]


@pytest.mark.parametrize("noun", ["disk", "nic", "cdrom"])
def test_a_machine_without_devices_has_none_to_list(vmctl: Vmctl, own: Own, noun: str) -> None:
    done = vmctl(*own, "-f", "json", noun, "list", "web")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert vmctl(*own, noun, "list", "web").stdout.split()[0] in {"TARGET", "MAC"}
    assert vmctl(*own, noun, "list", "wbe").exit_code == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("disk", "detach", "web", "vdx"), "'web' has no disk 'vdx'"),
        (("disk", "limit", "web", "vdx", "--none"), "'web' has no disk 'vdx'"),
        (("disk", "resize", "web", "vdx", "1GiB"), "'web' has no disk 'vdx'"),
        (("nic", "detach", "web", "52:54:00:00:00:01"), "'web' has no NIC"),
        (("nic", "link", "web", "52:54:00:00:00:01", "up"), "'web' has no NIC"),
        (("nic", "limit", "web", "52:54:00:00:00:01", "--none"), "'web' has no NIC"),
        (("cdrom", "eject", "web", "sda"), "'web' has no CD-ROM drive 'sda'"),
    ],
)
def test_a_device_that_is_not_there_is_said(
    vmctl: Vmctl, own: Own, words: tuple[str, ...], said: str
) -> None:
    done = vmctl(*own, *words)
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error: {said}")
    assert "hint: its" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("disk", "limit", "web", "vda"), 2, "--none to take them all away"),
        (("disk", "limit", "web", "vda", "--none", "--total-iops", "5"), 2, "give limits"),
        (("disk", "limit", "web", "vda", "--total-bytes", "5"), 7, "no unit"),
        (("disk", "attach", "web", "--size", "5"), 7, "size: 5 has no unit"),
        (("disk", "attach", "web", "--size", "1GiB", "--bus", "warp"), 7, "bus"),
        (("disk", "attach", "web"), 2, "--size, an --image, or a --volume"),
        (("nic", "attach", "web"), 2, "one of --network, --bridge and --user"),
        (("nic", "attach", "web", "--user", "--network", "default"), 2, "one of --network"),
        (("nic", "attach", "web", "--user", "--mac", "x"), 7, "not a MAC address"),
        (("nic", "link", "web", "52:54:00:00:00:01", "sideways"), 2, "sideways"),
        (("nic", "limit", "web", "52:54:00:00:00:01"), 2, "--none"),
        (("nic", "limit", "web", "52:54:00:00:00:01", "--inbound", "1,2,3,4"), 2, "no rate"),
        (("nic", "limit", "web", "52:54:00:00:00:01", "--inbound", "9,2"), 7, "less than average"),
        (("cdrom", "insert", "web", "sda"), 2, "a file of yours, or a volume"),
        (("cdrom", "insert", "web", "sda", "/no/such.iso"), 3, "there is no file /no/such.iso\n"),
        (("cdrom", "insert", "web", "sda", "/"), 2, "the file / can't be read: Is a directory"),
    ],
)
def test_what_makes_no_sense_is_refused(
    vmctl: Vmctl, own: Own, words: tuple[str, ...], code: int, said: str
) -> None:
    done = vmctl(*own, *words)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
