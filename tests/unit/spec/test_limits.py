"""Limits of disks and NICs: what contradicts itself is refused, with its path."""

from __future__ import annotations

from typing import Any

import pytest

from vmctl.errors import SpecError
from vmctl.spec import IoTuneSpec, VMSpec


def problems(**fields: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        VMSpec.model_validate({"name": "a", **fields})
    return [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ({"total_iops_sec": 5, "read_iops_sec": 5}, "total_iops_sec"),
        ({"total_bytes_sec": "1MiB", "write_bytes_sec": "1MiB"}, "total_bytes_sec"),
        ({"read_iops_sec_max": 5}, "read_iops_sec_max"),
        ({"read_iops_sec": 5, "read_iops_sec_max": 5}, "read_iops_sec_max"),
        ({"read_iops_sec": 0}, "read_iops_sec"),
        ({"read_bytes_sec": 5}, "read_bytes_sec"),
        ({"write_iops": 5}, "write_iops"),
    ],
)
def test_limits_of_a_disk_that_can_not_be(limits: dict[str, Any], path: str) -> None:
    assert problems(disks=[{"size": "1GiB", "iotune": limits}]) == [f"disks[0].iotune.{path}"]


def test_limits_that_are_given() -> None:
    limits = IoTuneSpec.model_validate({"total_iops_sec": 5, "read_bytes_sec": "1KiB"})
    assert limits.given() == {"total_iops_sec": 5, "read_bytes_sec": 1024}


@pytest.mark.parametrize(
    ("nic", "path"),
    [
        ({"user": True, "bandwidth": {"inbound": 5}}, "nics[0].bandwidth"),
        ({"network": "a", "bandwidth": {}}, "nics[0].bandwidth"),
        (
            {"network": "a", "bandwidth": {"inbound": {"average": 5, "peak": 4}}},
            "nics[0].bandwidth.inbound.peak",
        ),
        (
            {"network": "a", "bandwidth": {"outbound": {"peak": 4}}},
            "nics[0].bandwidth.outbound.average",
        ),
        ({"network": "a", "link": "sideways"}, "nics[0].link"),
    ],
)
def test_limits_of_a_nic_that_can_not_be(nic: dict[str, Any], path: str) -> None:
    assert problems(nics=[nic]) == [path]
