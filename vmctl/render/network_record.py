"""What a network's metadata says: the spec that it was made from, which makes it vmctl's."""

from __future__ import annotations

import json
from typing import Any

from lxml import etree

__all__ = ["NETWORK_NAMESPACE", "SPEC_TAG", "recorded_spec"]

NETWORK_NAMESPACE = "urn:vmctl:network:1"
"""Of vmctl's own element in a network's metadata."""

SPEC_TAG = f"{{{NETWORK_NAMESPACE}}}spec"
"""That element."""


def recorded_spec(root: etree._Element) -> dict[str, Any] | None:
    """Return the spec that a network was made from, as data; None if vmctl did not make it."""
    text = root.findtext(f"metadata/{SPEC_TAG}")
    return None if text is None else dict(json.loads(text))
