"""A machine taken back to an internal snapshot: libvirt does it, and vmctl's record stays right.

libvirt brings back the metadata of that time together with all else. So the record that holds
afterwards is put into the snapshot first: it is there in the same moment, and says that the revert
was made. libvirt may be at work even then, so that the machine stays in this phase until it has
ended. If libvirt is cut off in the middle, as between two disks of a machine that is off, it is
told to do it again.
"""

from __future__ import annotations

from dataclasses import replace

from lxml import etree

from vmctl import detours
from vmctl.errors import HostUnavailableError
from vmctl.hypervisor import snapshots
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.jobs import wait_for_job
from vmctl.hypervisor.metadata import Phase, Record, SnapshotWork
from vmctl.progress import being_undone
from vmctl.snapshotting.switching import is_own, merged, record_in, with_record

__all__ = ["go_back", "go_on"]

# Longer than the reading of any memory takes.
_CLAIM_SECONDS = 7200.0


def go_back(domain: Domain, name: str, *, seen: detours.Seen) -> None:
    """Take a machine back to an internal snapshot.

    Args:
        domain: The machine, which nobody is at work on.
        name: The snapshot.
        seen: The machine, as it was when this was decided.
    """
    with claimed(_CLAIM_SECONDS) as claim:
        work = SnapshotWork(snapshot=name)
        detours.begin(domain, Phase.REVERTING, claim, seen=seen, work=work)
        try:
            go_on(domain, name)
        except HostUnavailableError:
            # libvirtd may have done all of it, some of it, or nothing.
            with being_undone():
                outlasting(lambda: _go_on_after_outage(domain, name))
            raise
        except BaseException:
            with being_undone():
                outlasting(lambda: _end(domain))
            raise


def go_on(domain: Domain, name: str) -> None:
    """Let libvirt do it, once more perhaps; a machine that has been taken back is left so."""
    record = domain.record()
    if record is None or record.phase is not Phase.REVERTING:
        return
    if record.work is None or not record.work.restored:
        own = is_own(snapshots.details_of(domain, name))
        restored = replace(record, work=SnapshotWork(snapshot=name, restored=True, own=own))
        _renew_record(domain, restored, name)
        snapshots.revert(domain, name)
    _end(domain)


def _go_on_after_outage(domain: Domain, name: str) -> None:
    wait_for_job(domain)
    go_on(domain, name)


def _renew_record(domain: Domain, record: Record, name: str) -> None:
    root = etree.fromstring(snapshots.xml_of(domain, name))
    for tag in ("domain", "inactiveDomain"):
        for node in root.findall(tag):
            alone = etree.fromstring(etree.tostring(node))
            alone.tag = "domain"
            renewed = with_record(alone, merged(record, record_in(alone)))
            renewed.tag = tag
            root.replace(node, renewed)
    current = snapshots.details_of(domain, name).facts.current
    snapshots.redefine(domain, etree.tostring(root, encoding="unicode"), current=current)


def _end(domain: Domain) -> None:
    record = domain.record()
    if record is not None and record.phase is Phase.REVERTING:
        detours.end(domain, record, work=None)
