"""Carrying a change of what vmctl renders over to what libvirt has, and nothing else.

A definition, of a machine or a network, has more in it than vmctl rendered: what libvirt chose, and
what others set by hand. So it is not rendered anew. What is rendered for the old spec and for the
new one is compared, and their difference is applied to the definition, element by element.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from lxml import etree

__all__ = ["patch"]

# What tells elements of one name apart, as paths of attributes; others are told by their place. A
# name that means something else elsewhere has that of what it is in before it.
_KEYS = {
    "disk": ("target@dev",),
    "interface": ("mac@address",),
    "controller": (".@type", ".@index"),
    "channel": ("target@name",),
    "filesystem": ("target@dir",),
    "input": (".@type", ".@bus"),
    "serial": ("target@port",),
    "console": ("target@type", "target@port"),
    "feature": (".@name",),
    "timer": (".@name",),
    "network/ip": (".@family",),
    "dns/host": (".@ip",),
    "dns/forwarder": (".@addr",),
    "dhcp/host": (".@mac", ".@name"),
}
# Their order is what they say.
_ORDERED = frozenset({"boot"})
# A device that becomes one of another kind can't stay at its address.
_KIND = ("target@bus", "model@type", ".@model", ".@type")
# Others put entries of their own into these, whether or not vmctl rendered any.
_GATHERING = frozenset({"dns", "dhcp"})
# Not vmctl's to change.
_NEVER = frozenset({"metadata", "uuid", "name"})

Key = tuple[str, ...]


def patch(actual: str, old: str, new: str) -> str:
    """Return a definition with what is new in it.

    Args:
        actual: libvirt's own XML of it, for its next start.
        old: What is rendered for the spec that it was made from.
        new: What is rendered for the spec that is wanted.
    """
    parser = etree.XMLParser(resolve_entities=False, remove_blank_text=True)
    root, before, after = (etree.fromstring(text, parser=parser) for text in (actual, old, new))
    _patch(root, before, after)
    return etree.tostring(root, encoding="unicode", pretty_print=True)


def _patch(actual: etree._Element, old: etree._Element, new: etree._Element) -> None:
    _patch_own(actual, old, new)
    for tag in _ORDERED:
        _patch_ordered(actual, old, new, tag)
    there, before, after = (dict(_children(node)) for node in (actual, old, new))
    for key in dict.fromkeys([*before, *after]):
        _patch_child(actual, there.get(key), before.get(key), after.get(key))


def _patch_own(actual: etree._Element, old: etree._Element, new: etree._Element) -> None:
    for name in {*map(str, old.keys()), *map(str, new.keys())}:
        value = new.get(name)
        if value == old.get(name):
            continue
        if value is not None:
            actual.set(name, value)
        elif name in actual.attrib:
            del actual.attrib[name]
    if (old.text or "").strip() != (new.text or "").strip():
        actual.text = new.text
    if any(_at(old, where) != _at(new, where) for where in _KIND):
        for node in (*actual.findall("address"), *actual.findall("alias")):
            actual.remove(node)
        for node in new.findall("address"):
            actual.append(deepcopy(node))


def _patch_child(
    parent: etree._Element,
    actual: etree._Element | None,
    old: etree._Element | None,
    new: etree._Element | None,
) -> None:
    if old is not None and new is not None and _text(old) == _text(new):
        return
    if actual is not None and actual.tag in _GATHERING:
        nothing = etree.Element(actual.tag)
        _patch(actual, nothing if old is None else old, nothing if new is None else new)
        if len(actual) == 0 and not actual.attrib:
            parent.remove(actual)
        return
    if actual is not None and old is not None and new is not None:
        _patch(actual, old, new)
        return
    if actual is not None:
        parent.remove(actual)
    if new is not None:
        parent.append(deepcopy(new))


def _patch_ordered(
    actual: etree._Element, old: etree._Element, new: etree._Element, tag: str
) -> None:
    before, after = old.findall(tag), new.findall(tag)
    if [_text(node) for node in before] == [_text(node) for node in after]:
        return
    for node in actual.findall(tag):
        actual.remove(node)
    for node in after:
        actual.append(deepcopy(node))


def _children(parent: etree._Element) -> Iterator[tuple[Key, etree._Element]]:
    counts: dict[Key, int] = {}
    for node in parent.iterchildren(etree.Element):
        if node.tag in _ORDERED | _NEVER:
            continue
        keys = _KEYS.get(f"{parent.tag}/{node.tag}") or _KEYS.get(node.tag, ())
        named = tuple(_at(node, where).lower() for where in keys)
        key = (node.tag, *named)
        number = counts.get(key, 0)
        counts[key] = number + 1
        yield (*key, str(number)), node


def _at(node: etree._Element, where: str) -> str:
    path, _, attribute = where.partition("@")
    found = node if path == "." else node.find(path)
    return "" if found is None else found.get(attribute, "")


def _text(node: etree._Element) -> bytes:
    return etree.tostring(node, method="c14n")
