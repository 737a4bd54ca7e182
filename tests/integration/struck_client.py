"""A client that does one thing with a machine, and says when it begins: to be struck meanwhile.

Run as ``python -m tests.integration.struck_client URI MACHINE VERB [ARGUMENT...]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import vmctl


def main() -> None:
    """Do it."""
    uri, name, verb, *given = sys.argv[1:]
    with vmctl.connect(uri) as host:
        vm = host.get(name)
        verbs: dict[str, Callable[[], object]] = {
            "create": lambda: vm.snapshots.create(given[0]),
            "create-disks": lambda: vm.snapshots.create(given[0], memory=False),
            "revert": lambda: vm.snapshots.revert(given[0]),
            "delete": lambda: vm.snapshots.delete(given[0]),
            "clone": lambda: vm.clone(given[0]),
            "clone-linked": lambda: vm.clone(given[0], linked=True),
            "clone-of": lambda: vm.clone(given[0], from_snapshot=given[1]),
            "clone-linked-of": lambda: vm.clone(given[0], from_snapshot=given[1], linked=True),
            "backup": lambda: vm.backup(given[0]),
            "restore": lambda: vm.restore(given[0]),
            "restore-new": lambda: host.restore(given[0], name=given[1]),
            "flatten": vm.flatten,
        }
        print("begun", flush=True)
        verbs[verb]()


if __name__ == "__main__":
    main()
