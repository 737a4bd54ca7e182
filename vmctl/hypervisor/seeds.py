"""Taking a seed out of its machine once it is used up."""

from __future__ import annotations

from lxml import etree

from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import OwnedVolume
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.volumes import StoredVolume

__all__ = ["eject_seed"]


def eject_seed(domain: Domain, seed: OwnedVolume) -> None:
    """Empty the drive that holds the seed, and delete the seed's volume.

    The drive stays, empty, as it is in a machine whose disc was taken out.
    """
    pool = open_pool(domain.connection, seed.pool)
    path = pool.path_of(seed.name)
    for drive in etree.fromstring(domain.xml()).findall("devices/disk"):
        source = drive.find("source")
        if source is not None and source.get("file") == path:
            drive.remove(source)
            for leftover in drive.findall("backingStore"):
                drive.remove(leftover)
            # A guest that has the disc mounted may have locked the tray.
            domain.update_device(etree.tostring(drive, encoding="unicode"), force=True)
    StoredVolume.of(pool, seed.name).delete()
