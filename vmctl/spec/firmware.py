"""Firmware: BIOS or UEFI, secure boot, TPM."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel

__all__ = ["FirmwareSpec", "FirmwareType", "TpmVersion"]


class FirmwareType(StrEnum):
    """What the machine starts with."""

    BIOS = "bios"
    UEFI = "uefi"


class TpmVersion(StrEnum):
    """The version of an emulated TPM."""

    V1_2 = "1.2"
    V2_0 = "2.0"


def _version(value: Any) -> Any:
    if isinstance(value, bool):
        return TpmVersion.V2_0 if value else None
    return str(value) if isinstance(value, float) else value


class FirmwareSpec(SpecModel):
    """What the machine starts with."""

    short_form = "type"

    type: FirmwareType | None = None
    """`bios` or `uefi`."""
    secure_boot: bool = False
    """Whether only signed boot loaders may run; needs UEFI on q35."""
    tpm: Annotated[
        TpmVersion | None, BeforeValidator(_version, json_schema_input_type=bool | float | str)
    ] = None
    """An emulated TPM: true for 2.0, or the version."""

    def _problems(self) -> list[SpecProblem]:
        problems = []
        if self.secure_boot and self.type is FirmwareType.BIOS:
            problems.append(SpecProblem("secure_boot", "needs UEFI; write type: uefi"))
        if self.tpm is TpmVersion.V1_2 and self.type is FirmwareType.UEFI:
            problems.append(SpecProblem("tpm", "UEFI speaks to TPM 2.0 only; write tpm: '2.0'"))
        return problems
