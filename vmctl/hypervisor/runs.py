"""Since when a domain runs.

libvirt doesn't say. So vmctl, when it starts one, writes the time into the running domain's
metadata, which goes when it stops, together with the run's id: a snapshot, or a saved state, brings
metadata of an earlier run with it, and that has another id.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import libvirt
from lxml import etree

from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["note_start", "running_since"]

_NAMESPACE = "urn:vmctl:run:1"
_KEY = "vmctl-run"
_ELEMENT = libvirt.VIR_DOMAIN_METADATA_ELEMENT


def note_start(domain: Domain) -> None:
    """Write down that a domain was started just now."""
    raw = domain.raw()
    node = etree.Element("run")
    node.set("id", str(raw.ID()))
    node.set("started", datetime.now(UTC).isoformat(timespec="seconds"))
    text = etree.tostring(node, encoding="unicode")
    # It runs, and that is what was asked for; one that has stopped again has nothing to note.
    with suppress(libvirt.libvirtError):
        raw.setMetadata(_ELEMENT, text, _KEY, _NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def running_since(domain: Domain) -> datetime | None:
    """Return when this run began; None when it is off, or vmctl did not start it."""
    raw = domain.raw()
    with calling(f"ask since when '{domain.name}' runs"):
        if not raw.isActive():
            return None
        try:
            text = raw.metadata(_ELEMENT, _NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            gone = (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_OPERATION_INVALID)
            if is_code(error, *gone):
                return None
            raise
    return _since(text, raw.ID())


def _since(text: str, run: int) -> datetime | None:
    with suppress(etree.XMLSyntaxError, ValueError):
        node = etree.fromstring(text)
        if node.get("id") == str(run):
            return datetime.fromisoformat(node.get("started") or "")
    return None
