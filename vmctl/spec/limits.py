"""Limits on what a guest may read, write, send and receive.

Sources: https://libvirt.org/formatdomain.html#block-i-o-tuning and
https://libvirt.org/formatnetwork.html#quality-of-service, whose names these are.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.sizes import Size

__all__ = ["BandwidthSpec", "IoTuneSpec", "RateSpec"]

_Operations = Annotated[int, Field(ge=1, le=1_000_000_000)]
# libvirt's own limit is that of a 32-bit number of bits a second.
_Kibibytes = Annotated[int, Field(ge=1, le=4_294_967)]
_UNITS = ("bytes", "iops")


class IoTuneSpec(SpecModel):
    """How much of a disk a guest may use in a second; what is not given is not limited.

    What is limited in ``total`` is not limited for reading and writing apart as well. A ``_max`` is
    what may be reached for a second, above the limit itself.
    """

    total_bytes_sec: Size | None = None
    """Read and written in a second, with a unit."""
    read_bytes_sec: Size | None = None
    """Read in a second, with a unit."""
    write_bytes_sec: Size | None = None
    """Written in a second, with a unit."""
    total_iops_sec: _Operations | None = None
    """Operations in a second."""
    read_iops_sec: _Operations | None = None
    """Reads in a second."""
    write_iops_sec: _Operations | None = None
    """Writes in a second."""
    total_bytes_sec_max: Size | None = None
    """What `total_bytes_sec` may reach for a second."""
    read_bytes_sec_max: Size | None = None
    """What `read_bytes_sec` may reach for a second."""
    write_bytes_sec_max: Size | None = None
    """What `write_bytes_sec` may reach for a second."""
    total_iops_sec_max: _Operations | None = None
    """What `total_iops_sec` may reach for a second."""
    read_iops_sec_max: _Operations | None = None
    """What `read_iops_sec` may reach for a second."""
    write_iops_sec_max: _Operations | None = None
    """What `write_iops_sec` may reach for a second."""

    def given(self) -> dict[str, int]:
        """The limits that there are, by libvirt's names."""
        names = type(self).model_fields
        return {name: int(getattr(self, name)) for name in names if getattr(self, name) is not None}

    def _problems(self) -> list[SpecProblem]:
        given = self.given()
        problems = []
        for unit in _UNITS:
            for tail in ("sec", "sec_max"):
                total = f"total_{unit}_{tail}"
                apart = (f"read_{unit}_{tail}", f"write_{unit}_{tail}")
                if total in given and any(name in given for name in apart):
                    what = f"is limited apart already; leave out {' and '.join(apart)}, or this"
                    problems.append(SpecProblem(total, what))
        for name, most in given.items():
            base = name.removesuffix("_max")
            if base != name and base not in given:
                problems.append(SpecProblem(name, f"needs {base} beside it"))
            elif base != name and most <= given[base]:
                problems.append(SpecProblem(name, f"is not more than {base}"))
        return problems


class RateSpec(SpecModel):
    """How much a NIC may carry in one direction; libvirt counts in KiB."""

    short_form = "average"

    average: _Kibibytes
    """KiB a second that it carries in the long run."""
    peak: _Kibibytes | None = None
    """KiB a second at the most, while there is burst left."""
    burst: _Kibibytes | None = None
    """KiB that may pass at the peak's rate at once."""

    def _problems(self) -> list[SpecProblem]:
        if self.peak is not None and self.peak < self.average:
            return [SpecProblem("peak", f"{self.peak} is less than average, {self.average}")]
        return []


class BandwidthSpec(SpecModel):
    """How much a NIC may carry, seen from the guest; a direction without a rate is not limited."""

    inbound: RateSpec | None = None
    """What the guest receives."""
    outbound: RateSpec | None = None
    """What the guest sends."""

    def _problems(self) -> list[SpecProblem]:
        if self.inbound is None and self.outbound is None:
            return [SpecProblem("", "gives no rate; write inbound, outbound, or both")]
        return []
