"""A machine and what it shall be: compared, and changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vmctl.hypervisor import saves
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.snapshots import list_details
from vmctl.intent import applying
from vmctl.intent.applying import Applied
from vmctl.intent.assignments import assign, written
from vmctl.intent.by_verb import Verbs
from vmctl.intent.planning import ChangePlan, Machine, plan_change, recorded_spec
from vmctl.intent.rules import When
from vmctl.progress import ProgressCallback, Reporter
from vmctl.spec import VMSpec
from vmctl.tenancy import fenced, refuse_foreign_nics

__all__ = ["Intent"]


class Intent:
    """What can be asked of one machine about another spec.

    Args:
        domain: The machine.
        record: Reads vmctl's record of it; refuses a machine that has none.
        verbs: The verbs of the machine's devices.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        record: Callable[[], Record],
        verbs: Verbs,
    ) -> None:
        self._domain = domain
        self._record = record
        self._verbs = verbs

    def _look(self) -> Machine:
        return Machine(
            name=self._domain.name,
            uuid=self._domain.uuid,
            spec=self._record().spec,
            definition=self._domain.xml(inactive=True),
            running=self._domain.xml() if self._domain.is_active() else None,
            facts=self._verbs.facts,
            templates=self._verbs.templates,
            overlaid=frozenset(
                disk.target for entry in list_details(self._domain) for disk in entry.disks
            ),
            saved=saves.has_saved_state(self._domain),
        )

    def compare(self, wanted: VMSpec | Mapping[str, Any]) -> ChangePlan:
        """Return what differs between the machine and a spec, or its own with other values.

        Raises:
            SpecError: A NIC would join what is not for the machine's tenant.
        """
        # One look for both, so that what somebody else changes between two is not changed back.
        machine = self._look()
        spec = wanted if isinstance(wanted, VMSpec) else _with_values(machine, wanted)
        recorded = recorded_spec(machine)
        self._refuse_foreign(spec, recorded)
        return plan_change(
            spec,
            machine,
            why_not_live=self._verbs.looking(machine.running),
            size_of=self._verbs.size_of,
            fenced=partial(fenced, self._domain.connection, recorded.tenant),
        )

    def _refuse_foreign(self, spec: VMSpec, recorded: VMSpec) -> None:
        """Refuse networks of other tenants', before anything is shown; those it has stay."""
        has = {(nic.type, nic.network, nic.bridge) for nic in recorded.nics}
        numbers = [
            number
            for number, nic in enumerate(spec.nics)
            if (nic.type, nic.network, nic.bridge) not in has
        ]
        refuse_foreign_nics(
            self._domain.connection,
            self._domain.name,
            recorded.tenant,
            [spec.nics[number] for number in numbers],
            named=lambda at: f"nics[{numbers[at]}]",
        )

    def with_values(self, values: Mapping[str, Any]) -> VMSpec:
        """Return the machine's spec with some fields changed, by their paths."""
        return _with_values(self._look(), values)

    def apply(
        self,
        wanted: VMSpec | Mapping[str, Any],
        *,
        shown: ChangePlan | None,
        live_only: bool,
        skip_anew: bool,
        progress: ProgressCallback | None,
    ) -> Applied:
        """Make the machine what a spec says."""
        with Reporter(self._domain.name, progress).phase("change") as phase:
            plan = self.compare(wanted)
            if shown is not None:
                applying.refuse_other(plan, shown)
            if not skip_anew:
                applying.refuse_anew(plan)
            times = (When.LIVE,) if live_only else (When.LIVE, When.NEXT_START)
            return applying.apply(
                self._domain,
                plan,
                plan.those(*times),
                look=self._look,
                make=self._verbs.make,
                phase=phase,
            )


def _with_values(machine: Machine, values: Mapping[str, Any]) -> VMSpec:
    data = written(recorded_spec(machine))
    if "max_vcpus" not in values:
        # What it is now is what was resolved; not written, it is as high as need be.
        data.pop("max_vcpus", None)
    if "image" in values:
        # The first disk has it because the machine has.
        for disk in data.get("disks", [])[:1]:
            disk.pop("image", None)
    for path, value in values.items():
        assign(data, path, value)
    return VMSpec.model_validate(data)
