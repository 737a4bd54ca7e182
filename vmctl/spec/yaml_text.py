"""YAML: read it strictly, and say where it is wrong.

Two loaders, both safe (no tag makes an object):

* `SpecLoader` reads specs. Plain scalars have the types of YAML 1.2's core schema, because those
  of YAML 1.1 bite: there, ``52:54:00:12:34:56`` can be a number in base 60, ``no`` is false and
  ``0644`` is 420. A number with a leading zero stays text.
* `CloudConfigLoader` reads cloud-config as cloud-init itself does (YAML 1.1).

Both refuse keys that are given twice, and documents whose aliases unfold to something huge.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

__all__ = ["parse_cloud_config", "parse_spec"]

_MOST_NODES = 100_000


class CloudConfigLoader(yaml.SafeLoader):
    """YAML 1.1, as cloud-init reads it, without duplicate keys."""

    def get_single_node(self) -> Node | None:
        """Compose the document, and bound what its aliases unfold to."""
        node: Node | None = super().get_single_node()
        if node is not None:
            _unfolded(node, {}, set())
        return node


class SpecLoader(CloudConfigLoader):
    """The types of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML wants it on the class


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", ["<"]),
):
    SpecLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _unfolded(node: Node, known: dict[int, int], above: set[int]) -> int:
    """Count the nodes below ``node`` with every alias unfolded."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise yaml.constructor.ConstructorError(
            None, None, "an alias contains itself", node.start_mark
        )
    below: list[Node] = []
    if isinstance(node, SequenceNode):
        below = list(node.value)
    elif isinstance(node, MappingNode):
        _refuse_duplicates(node)
        below = [inner for pair in node.value for inner in pair]
    count = 1 + sum(_unfolded(inner, known, above | {id(node)}) for inner in below)
    if count > _MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"unfolds to more than {_MOST_NODES} values", node.start_mark
        )
    known[id(node)] = count
    return count


def _refuse_duplicates(node: MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be text", key.start_mark
            )
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} is given twice", key.start_mark
            )
        seen.add(key.value)


def parse_spec(text: str) -> Any:
    """Read a spec's YAML.

    Raises:
        yaml.YAMLError: The text is not YAML, has a key twice, or unfolds to something huge.
    """
    return _load(text, SpecLoader)


def parse_cloud_config(text: str) -> Any:
    """Read cloud-config as cloud-init does.

    Raises:
        yaml.YAMLError: The text is not YAML, has a key twice, or unfolds to something huge.
    """
    return _load(text, CloudConfigLoader)


def _load(text: str, loader: type[CloudConfigLoader]) -> Any:
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe loaders
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # A number or a date that is none, or a tag on what it doesn't fit: `!!bool maybe`.
        raise yaml.YAMLError(f"a value is not what it says it is: {error}") from None
