"""Volume XML."""

from __future__ import annotations

from lxml import etree

from vmctl.render.volume import render_volume
from vmctl.spec import VMSpec


def test_sizes_are_plain_numbers_of_bytes() -> None:
    spec = VMSpec.model_validate({"name": "m", "memory": "1GiB", "disks": [{"size": "8MiB"}]})
    size = (spec.disks or ())[0].size
    assert size is not None
    root = etree.fromstring(render_volume("v", capacity=size, format="raw"))
    assert root.findtext("capacity") == str(8 << 20)
    assert root.find("backingStore") is None


def test_a_backing_file_always_has_its_format() -> None:
    text = render_volume("v", capacity=1, format="qcow2", backing_path="/pool/<&>.qcow2")
    root = etree.fromstring(text)
    assert root.findtext("backingStore/path") == "/pool/<&>.qcow2"
    form = root.find("backingStore/format")
    assert form is not None
    assert form.get("type") == "qcow2"
