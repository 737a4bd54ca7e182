"""What a clone's guest is told before it has a network, by its firmware's tables.

systemd-networkd makes its DHCP client identifier of the machine-id, and cloud-init's renderer for
it leaves out that it shall be the MAC address. So a clone would ask by the name of its source, and
get its lease; cloud-init itself can change the machine-id only when there is a network already.
systemd, from 252 on, takes credentials from SMBIOS strings, and systemd-tmpfiles writes files by
one of them, early in the boot.

Sources: https://www.freedesktop.org/software/systemd/man/latest/systemd.system-credentials.html,
https://libvirt.org/formatdomain.html#smbios-system-information
"""

from __future__ import annotations

from lxml import etree

__all__ = ["has_first_boot", "tell_machine_id", "without_first_boot"]

_OURS = "io.systemd.credential:tmpfiles.extra=f+ /etc/machine-id 0444 root root - "


def tell_machine_id(root: etree._Element, machine_id: str) -> None:
    """Put a machine-id into a domain's XML, for the next boot of its guest.

    A domain that shows its guest the host's own tables is left as it is.
    """
    without_first_boot(root)
    boot = root.find("os")
    mode = None if boot is None else boot.find("smbios")
    if boot is None or (mode is not None and mode.get("mode") == "host"):
        return
    if mode is None:
        mode = etree.SubElement(boot, "smbios")
    mode.set("mode", "sysinfo")
    info = root.find("sysinfo[@type='smbios']")
    if info is None:
        info = etree.Element("sysinfo", type="smbios")
        boot.addprevious(info)
    strings = info.find("oemStrings")
    if strings is None:
        strings = etree.SubElement(info, "oemStrings")
    etree.SubElement(strings, "entry").text = f"{_OURS}{machine_id}"


def has_first_boot(root: etree._Element) -> bool:
    """Return whether there is something in a domain's XML that is for one boot only."""
    return bool(_entries(root))


def without_first_boot(root: etree._Element) -> etree._Element:
    """Take it out again, and what was made for it."""
    for entry in _entries(root):
        strings = entry.getparent()
        if strings is None:
            continue
        strings.remove(entry)
        info = strings.getparent()
        if len(strings) or info is None:
            continue
        info.remove(strings)
        if not len(info):
            root.remove(info)
            for mode in root.findall("os/smbios"):
                mode.getparent().remove(mode)  # type: ignore[union-attr]
    return root


def _entries(root: etree._Element) -> list[etree._Element]:
    found = root.findall("sysinfo[@type='smbios']/oemStrings/entry")
    return [entry for entry in found if (entry.text or "").startswith(_OURS)]
