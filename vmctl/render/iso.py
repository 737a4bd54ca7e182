"""A seed as the image of a CD-ROM, as cloud-init's NoCloud datasource looks for it."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pycdlib

__all__ = ["VOLUME_LABEL", "build_iso"]

# https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
VOLUME_LABEL = "cidata"


def build_iso(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image with Joliet and Rock Ridge names.

    Args:
        files: Name to content; all lie in the root folder.
    """
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME_LABEL)
    try:
        for number, (name, content) in enumerate(sorted(files.items())):
            iso.add_fp(
                io.BytesIO(content),
                len(content),
                iso_path=f"/F{number}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
            )
        image = io.BytesIO()
        iso.write_fp(image)
    finally:
        iso.close()
    return image.getvalue()
