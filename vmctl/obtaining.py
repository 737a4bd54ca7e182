"""The image that a spec names: found in the pool or on this machine, or fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vmctl import bases
from vmctl.errors import NotFoundError, SpecError, SpecProblem
from vmctl.hypervisor.image_names import ImageName, read_name
from vmctl.hypervisor.pools import Pool
from vmctl.imaging.conversion import as_qcow2
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.references import is_name, is_url, source_of
from vmctl.progress import Reporter
from vmctl.spec import FirmwareType
from vmctl.tenancy import refuse_foreign_image

if TYPE_CHECKING:
    from vmctl.imaging.catalogue import Entry

__all__ = ["obtain"]


def obtain(
    pool: Pool,
    reference: str,
    *,
    reporter: Reporter,
    arch: str,
    firmware: FirmwareType | None = None,
    tenant: str = "",
) -> Image | ImageName:
    """Return the image that a spec names: a file, a name in the pool or the catalogue, or a URL.

    What is not on this machine and not in the pool is fetched, as `Images.pull` fetches it.

    Args:
        pool: Where names are looked up.
        reference: A path, a name, or ``URL#sha256=DIGITS``.
        reporter: Told of the phase ``image``.
        arch: The guest's architecture.
        firmware: What the machine boots the image with; None: it doesn't boot it.
        tenant: Whose machine it is for; empty for nobody's.

    Returns:
        A file that was looked at, or what is in the pool already.

    Raises:
        NotFoundError: There is none.
        ImageError: It is not fit to be used, or can't be had.
        SpecError: It is known to boot by UEFI only, and the machine has a BIOS.
    """
    if is_name(reference) and not Path(reference).exists():
        known = read_name(pool, reference)
        if known is not None and known.arch in {"", arch}:
            refuse_foreign_image(reference, known.tenant, tenant)
            if bases.is_complete(pool, bases.name_for(known.digest)):
                _refuse_other_firmware(reference, known.firmware, firmware)
                return known
            raise NotFoundError(
                f"the image '{reference}' is not in the pool '{pool.name}' any more",
                hint=f"get it again, for example by `vmctl image pull {reference}`",
            )
        entry = _in_catalogue(reference, arch)
        _refuse_other_firmware(reference, entry.firmware, firmware)
        source = entry.source
    elif is_url(reference):
        source = source_of(reference, None)
    else:
        with reporter.phase("image") as phase:
            return as_qcow2(inspect(reference, phase=phase), phase=phase)
    # What fetches is loaded when something is fetched: TLS and HTTP take their time.
    from vmctl.imaging.acquiring import acquire  # noqa: PLC0415

    with reporter.phase("image") as phase:
        image, _fetched = acquire(source, phase=phase)
        return image


def _refuse_other_firmware(reference: str, needed: str, given: FirmwareType | None) -> None:
    """Say so now: nothing would ever be seen of a guest that its firmware doesn't find."""
    if needed == FirmwareType.UEFI and given is FirmwareType.BIOS:
        raise SpecError(
            "the machine can't boot its image",
            problems=[
                SpecProblem("firmware.type", f"the image '{reference}' needs uefi, and it is bios")
            ],
            hint="write `firmware: uefi`; what an image needs is said where it is in the catalogue",
        )


def _in_catalogue(reference: str, arch: str) -> Entry:
    from vmctl.imaging.catalogue import Catalogue  # noqa: PLC0415 - few need it

    try:
        return Catalogue().find(reference, arch)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no image {reference!r}: no file, no name in the pool, and none in the "
            "catalogue",
            hint=error.hint,
        ) from error
