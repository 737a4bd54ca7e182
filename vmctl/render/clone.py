"""A machine's definition made into that of its clone.

It is made from what libvirt has, and not rendered anew from the spec: addresses that libvirt chose
decide what the guest calls its devices, and what others set by virsh is a part of the machine. The
identity is replaced piece by piece, and what then still says who the source was is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lxml import etree

from vmctl.errors import UnsupportedError
from vmctl.render.first_boot import tell_machine_id, without_first_boot
from vmctl.render.identity import mac_address, machine_id_of
from vmctl.render.nwfilter import NicFilter

__all__ = ["CloneIdentity", "clone_definition"]

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
# Of a character device, what listens on the host or writes there, and so is one machine's only.
_SHARED_PORTS = frozenset({"tcp", "udp", "unix", "file", "pipe", "dev"})


@dataclass(frozen=True, kw_only=True)
class CloneIdentity:
    """Who a clone is, and where its parts are.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        record: vmctl's element for its ``<metadata>``, ready.
        namespace: That element's namespace.
        macs: MAC addresses by those of the source; NICs that are not named get one by the UUID.
        filters: What its NICs say of their packet filters, by their own MAC addresses.
        paths: Where on the host its own parts are, by where those of the source are.
        formats: How its disks are written, by their targets.
        nvram: Where UEFI's variables are; None where it has none.
        seed: Target of the empty drive that gets the cloud-init seed, and the seed's path.
    """

    name: str
    uuid: str
    record: str = ""
    namespace: str = ""
    macs: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, NicFilter] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    nvram: str | None = None
    seed: tuple[str, str] | None = None


def clone_definition(xml: str, identity: CloneIdentity) -> tuple[str, tuple[str, ...]]:
    """Return the definition of a clone, and what is not in it, one sentence for each.

    Args:
        xml: The source's definition, secrets and all.
        identity: Who the clone is.

    Raises:
        UnsupportedError: It has something that two machines can't have, or that can't be copied.
    """
    root = etree.fromstring(xml)
    was = root.findtext("uuid") or ""
    old_macs = [mac.get("address", "") for mac in root.findall("devices/interface/mac")]
    notes = [
        *_without_passed_through(root),
        *_with_own_ports(root),
        *_with_own_characters(root),
        *_other_notes(root),
    ]
    _refuse_uncopied(root)
    _rename(root, identity)
    _replace_nics(root, identity)
    _replace_paths(root, identity)
    _put_seed_in(root, identity)
    kept = {*identity.macs.values()}
    _refuse_left(root, identity, [was, *(mac for mac in old_macs if mac.lower() not in kept)])
    return etree.tostring(root, encoding="unicode"), tuple(notes)


def _drop(node: etree._Element) -> None:
    parent = node.getparent()
    if parent is not None:
        parent.remove(node)


def _drop_all(root: etree._Element, *paths: str) -> None:
    for path in paths:
        for node in root.findall(path):
            _drop(node)


def _rename(root: etree._Element, identity: CloneIdentity) -> None:
    for tag, text in (("name", identity.name), ("uuid", identity.uuid)):
        node = root.find(tag)
        if node is not None:
            node.text = text
    # An empty one is made anew by libvirt; it tells a guest that it was cloned.
    for node in root.findall("genid"):
        node.text = None
    # That one must be the domain's; without it, it is.
    _drop_all(root, "sysinfo/system/entry[@name='uuid']")
    for cid in root.findall("devices/vsock/cid"):
        cid.attrib.pop("address", "")
        cid.set("auto", "yes")
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    for node in metadata.findall(f"{{{identity.namespace}}}*"):
        metadata.remove(node)
    if identity.record:
        metadata.append(etree.fromstring(identity.record))


def _replace_nics(root: etree._Element, identity: CloneIdentity) -> None:
    for number, nic in enumerate(root.findall("devices/interface")):
        mac = nic.find("mac")
        if mac is not None:
            # Beyond the NICs of any spec, so that it is none of theirs.
            own = mac_address(identity.uuid, 1000 + number)
            mac.set("address", identity.macs.get(mac.get("address", "").lower(), own))
        _drop_all(nic, "target", "backend/log", "filterref/parameter[@name='IP']")
        _drop_all(nic, "filterref/parameter[@name='MAC']", "filterref/parameter[@name='IPV6']")
        _replace_filter(nic, identity)
        for parameters in nic.findall("virtualport/parameters"):
            parameters.attrib.pop("interfaceid", "")


def _replace_filter(nic: etree._Element, identity: CloneIdentity) -> None:
    """Let vmctl's filter keep the clone's NIC to its own addresses; others' stay as they are."""
    mac = nic.find("mac")
    own = None if mac is None else identity.filters.get(mac.get("address", "").lower())
    if own is None:
        return
    _drop_all(nic, "filterref")
    node = etree.SubElement(nic, "filterref", filter=own.name)
    for name, value in own.parameters:
        etree.SubElement(node, "parameter", name=name, value=value)


def _replace_paths(root: etree._Element, identity: CloneIdentity) -> None:
    for node in root.iter(etree.Element):
        for name, value in node.attrib.items():
            node.set(name, identity.paths.get(str(value), value))
        if node.text:
            node.text = identity.paths.get(node.text, node.text)
    for log in root.findall("devices/*/log"):
        if log.get("file") not in identity.paths.values():
            _drop(log)
    nvram = root.find("os/nvram")
    if nvram is not None:
        nvram.text = identity.nvram
        nvram.attrib.pop("type", "")
        _drop_all(nvram, "source")
    _fit_disks(root, identity)


def _fit_disks(root: etree._Element, identity: CloneIdentity) -> None:
    """Let the disks that are copied be what their copies are: files that stand alone."""
    for disk in root.findall("devices/disk"):
        target, driver = disk.find("target"), disk.find("driver")
        name = "" if target is None else target.get("dev", "")
        if name not in identity.formats:
            continue
        _drop_all(disk, "backingStore", "mirror", "source/slices")
        if driver is None:
            driver = etree.SubElement(disk, "driver", name="qemu")
        driver.set("type", identity.formats[name])
        # A copy of a device is a file.
        source = disk.find("source")
        if source is not None and source.get("dev"):
            source.set("file", source.attrib.pop("dev"))
            disk.set("type", "file")


def _put_seed_in(root: etree._Element, identity: CloneIdentity) -> None:
    # What its source may have been told once is not for it.
    without_first_boot(root)
    if identity.seed is None:
        return
    tell_machine_id(root, machine_id_of(identity.uuid))
    target, path = identity.seed
    for disk in root.findall("devices/disk"):
        node = disk.find("target")
        if node is not None and node.get("dev") == target:
            disk.set("type", "file")
            etree.SubElement(disk, "source", file=path)


# -- what two machines can't both have ------------------------------------------------------------


def _without_passed_through(root: etree._Element) -> Iterator[str]:
    """Take out the devices of the host's that one machine has at a time."""
    for node in root.findall("devices/hostdev"):
        _drop(node)
        yield f"it has not the {node.get('type', '')} device of the host that its source was given"
    for node in root.findall("devices/interface[@type='hostdev']"):
        _drop(node)
        yield "it has not the network device of the host that its source was given"
    for node in root.findall("devices/tpm"):
        backend = node.find("backend")
        if backend is not None and backend.get("type") != "emulator":
            _drop(node)
            yield "it has not the host's TPM, which its source was given"


def _with_own_ports(root: etree._Element) -> Iterator[str]:
    """Let the host choose the ports that displays listen on."""
    for node in root.findall("devices/graphics"):
        port = node.get("port", "-1")
        if node.get("autoport") == "no" and port not in {"-1", "0"}:
            yield f"its display listens on a port that the host chooses, and not on {port}"
            node.set("autoport", "yes")
        for name in ("port", "tlsPort", "websocket", "socket"):
            node.attrib.pop(name, "")
        for listen in node.findall("listen[@type='socket']"):
            listen.attrib.pop("socket", "")
    for node in root.findall("devices/interface/portForward"):
        _drop(node)
        yield "ports of the host that lead into its source don't lead into it"


def _with_own_characters(root: etree._Element) -> Iterator[str]:
    """Let libvirt choose what is behind serial ports, consoles and channels."""
    for node in root.findall("devices/channel[@type='unix']/source"):
        _drop(node)
    for tag in ("serial", "console", "parallel"):
        for node in root.findall(f"devices/{tag}"):
            kind = node.get("type")
            if kind not in _SHARED_PORTS:
                if kind == "pty":
                    _drop_all(node, "source")
                continue
            node.set("type", "pty")
            _drop_all(node, "source", "protocol")
            if tag != "console":
                # libvirt shows the first serial port as a console as well.
                yield f"its {tag} port is a terminal, and not the {kind} that its source's is"


def _other_notes(root: etree._Element) -> Iterator[str]:
    if root.find("devices/tpm") is not None:
        yield (
            "its TPM is a new one, and empty: what its guest sealed with that of its source, the "
            "key of an encrypted disk say, can't be opened"
        )
    if root.find(f"{{{_QEMU}}}commandline") is not None:
        yield "its source's own words to QEMU are taken over as they are"


def _refuse_uncopied(root: etree._Element) -> None:
    if root.find("devices/disk//encryption") is not None:
        raise UnsupportedError(
            "a disk of it is encrypted by QEMU, and a copy would not be",
            hint="copy it by hand, with `qemu-img convert` and the secret",
        )
    for node in root.findall("devices/memory"):
        if node.get("model") in {"nvdimm", "virtio-pmem"}:
            raise UnsupportedError(
                f"it has memory of the model {node.get('model')}, whose file can't be copied",
                hint="detach it first",
            )


def _refuse_left(root: etree._Element, identity: CloneIdentity, words: list[str]) -> None:
    """See that nothing says any more who the source was, wherever it stands.

    Raises:
        UnsupportedError: Something does.
    """
    forbidden = [word for word in (*words, *identity.paths) if word]
    if not forbidden:
        return
    pattern = re.compile("|".join(map(re.escape, forbidden)), re.IGNORECASE)
    for node in root:
        if etree.QName(node).localname in {"metadata", "title", "description"}:
            continue
        for inner in node.iter(etree.Element):
            for text in (inner.text or "", *map(str, inner.attrib.values())):
                found = pattern.search(text)
                if found is not None:
                    raise UnsupportedError(
                        f"its definition has {found.group()!r} in <{etree.QName(inner).localname}>,"
                        " which a clone can't have too",
                        hint="take that out of its definition first: `virsh edit`",
                    )
