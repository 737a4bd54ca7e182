"""Memory that the host can't read: launch security, by libvirt's terms.

Source: https://libvirt.org/formatdomain.html#launch-security
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel

__all__ = ["LaunchSecuritySpec", "LaunchSecurityType"]


class LaunchSecurityType(StrEnum):
    """What encrypts the guest's memory."""

    SEV = "sev"
    """AMD's Secure Encrypted Virtualization."""
    SEV_SNP = "sev-snp"
    """The same with Secure Nested Paging: the host can't replace what it can't read."""
    TDX = "tdx"
    """Intel's Trust Domain Extensions."""


class LaunchSecuritySpec(SpecModel):
    """A guest whose memory is encrypted, for the host as well."""

    short_form = "type"

    type: LaunchSecurityType
    """`sev`, `sev-snp` or `tdx`."""
    policy: Annotated[int, Field(ge=0, lt=1 << 64)] | None = None
    """The bits that the processor's firmware holds the host to; those of the type's own default
    forbid debugging."""
    kernel_hashes: bool | None = None
    """Whether a kernel that is booted directly is measured too; not with `tdx`."""

    def _problems(self) -> list[SpecProblem]:
        if self.type is LaunchSecurityType.TDX and self.kernel_hashes is not None:
            return [SpecProblem("kernel_hashes", "tdx measures the kernel by itself; leave it out")]
        if self.type is LaunchSecurityType.SEV and (self.policy or 0) >= 1 << 32:
            return [SpecProblem("policy", "that of sev has 32 bits")]
        return []
