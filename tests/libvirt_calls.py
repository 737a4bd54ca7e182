"""Records what is asked of libvirt, at the seam between its Python classes and its library."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

# Answered by the handle itself; nothing is sent for them.
_LOCAL = ("Free", "GetName", "GetUUIDString", "GetUUID", "GetID", "IsAlive", "GetConnect", "Ref")


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of the block, by the name of libvirt's function."""
    calls: Counter[str] = Counter()
    with _telling(lambda name: calls.update((name,))):
        yield calls


@contextlib.contextmanager
def listed() -> Iterator[list[str]]:
    """List the calls of the block, by the name of libvirt's function, in their order."""
    calls: list[str] = []
    with _telling(calls.append):
        yield calls


@contextlib.contextmanager
def _telling(tell: Callable[[str], None]) -> Iterator[None]:
    module = libvirt.libvirtmod

    def telling(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*given: Any) -> Any:
            tell(name)
            return call(*given)

        return wrapper

    kept = {
        name: getattr(module, name)
        for name in dir(module)
        if name.startswith("vir") and not name.endswith(_LOCAL) and not name.startswith("virEvent")
    }
    for name, call in kept.items():
        setattr(module, name, telling(name, call))
    try:
        yield
    finally:
        for name, call in kept.items():
            setattr(module, name, call)
