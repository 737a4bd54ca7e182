"""An OVF descriptor as a tree of XML, which is parsed without following anything in it."""

from __future__ import annotations

from lxml import etree

from vmctl.errors import ImageError

__all__ = [
    "HINT",
    "LARGEST_DESCRIPTOR",
    "attribute",
    "child",
    "children",
    "local_name",
    "parse",
    "text_of",
]

LARGEST_DESCRIPTOR = 4 * 1024**2
"""Bytes of the largest descriptor that is read."""

HINT = "export the machine again, as OVF 1.0 or 2.0"
"""What to do about a descriptor that is none."""

_ENVELOPES = {
    "http://schemas.dmtf.org/ovf/envelope/1",
    "http://schemas.dmtf.org/ovf/envelope/2",
    "http://www.vmware.com/schema/ovf/1/envelope",
}


def parse(text: bytes, source: str) -> etree._Element:
    """Return the root of a descriptor; no entity is resolved, and nothing is fetched.

    Args:
        text: The document, in UTF-8.
        source: What errors call it.

    Raises:
        ImageError: It is no OVF envelope, or not one to be trusted.
    """
    if len(text) > LARGEST_DESCRIPTOR:
        raise ImageError(f"{source} is larger than 4 MiB and no OVF descriptor", hint=HINT)
    try:
        # One encoding only, whatever the document declares: else a DTD could hide in another.
        if "<!DOCTYPE" in text.decode("utf-8-sig").upper():
            raise ImageError(f"{source} has a DTD, which OVF knows nothing of", hint=HINT)
        parser = etree.XMLParser(
            encoding="utf-8",
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        root = etree.fromstring(text.removeprefix(b"\xef\xbb\xbf"), parser)
    except UnicodeDecodeError as error:
        raise ImageError(f"{source} is not text in UTF-8", hint=HINT) from error
    except etree.XMLSyntaxError as error:
        raise ImageError(
            f"{source} is not XML", details=str(error), hint="get it again: it may be cut off"
        ) from error
    name = etree.QName(root)
    if name.localname != "Envelope" or name.namespace not in _ENVELOPES:
        raise ImageError(f"{source} is XML, and no OVF envelope", hint=HINT)
    return root


def local_name(node: etree._Element) -> str:
    """Return an element's name without its namespace; exporters differ on that."""
    return etree.QName(node).localname


def children(node: etree._Element, *names: str) -> list[etree._Element]:
    """Return the elements right below that have one of the names, in their order."""
    return [below for below in node if local_name(below) in names]


def child(node: etree._Element, name: str) -> etree._Element | None:
    """Return the first element of that name right below, or None."""
    return next(iter(children(node, name)), None)


def text_of(node: etree._Element | None, name: str) -> str:
    """Return the text of the element of that name right below, on one line; "" if there is none."""
    found = None if node is None else child(node, name)
    return "" if found is None else " ".join((found.text or "").split())[:255]


def attribute(node: etree._Element, name: str) -> str:
    """Return an attribute by its local name; exporters differ on its namespace."""
    for key, value in node.attrib.items():
        if etree.QName(str(key)).localname == name:
            return str(value)
    return ""
