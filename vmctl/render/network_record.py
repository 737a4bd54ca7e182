"""vmctl's own element in a network's metadata, which makes it vmctl's.

It is read by who renders nothing, and so loads no specs.
"""

from __future__ import annotations

import json
from typing import Any

from lxml import etree

__all__ = ["NETWORK_NAMESPACE", "add_record", "recorded_claim", "recorded_spec", "with_record"]

NETWORK_NAMESPACE = "urn:vmctl:network:1"

_SPEC = f"{{{NETWORK_NAMESPACE}}}spec"


def add_record(
    metadata: etree._Element, spec: dict[str, Any], claim: dict[str, Any] | None
) -> None:
    """Add the record to a network's metadata.

    Args:
        metadata: Its ``<metadata>``.
        spec: The spec, as plain data; it has no secret in it.
        claim: Who is making it, if somebody is.
    """
    node = etree.SubElement(metadata, _SPEC, nsmap={"vmctl": NETWORK_NAMESPACE})
    node.text = _json(spec)
    if claim is not None:
        node.set("claim", _json(claim))


def recorded_spec(root: etree._Element) -> dict[str, Any] | None:
    """Return the spec that a network was made from, as data; None if vmctl did not make it."""
    text = root.findtext(f"metadata/{_SPEC}")
    return None if text is None else dict(json.loads(text))


def recorded_claim(root: etree._Element) -> dict[str, Any] | None:
    """Return who is making a network, as data; None for one that is made, or not vmctl's."""
    node = root.find(f"metadata/{_SPEC}")
    text = None if node is None else node.get("claim")
    return None if text is None else dict(json.loads(text))


def with_record(xml: str, spec: dict[str, Any] | None) -> str:
    """Return a network's XML with another spec in its record, or the same one, and no claim."""
    root = etree.fromstring(xml)
    node = root.find(f"metadata/{_SPEC}")
    if node is not None:
        node.attrib.pop("claim", "")
        if spec is not None:
            node.text = _json(spec)
    return etree.tostring(root, encoding="unicode")


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=True)
