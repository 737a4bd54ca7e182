"""cloud-init's own verdict, as ``cloud-init status --format=json`` gives it.

https://docs.cloud-init.io/en/latest/explanation/failure_states.html
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass

from vmctl.errors import GuestUnreachableError, ProvisioningError
from vmctl.guest.command import CompletedCommand
from vmctl.guest.ssh import SSHSession

__all__ = ["Verdict", "judge", "read_text", "read_verdict"]

_WAIT = "cloud-init status --wait --format=json"
# Before 22.4, `status` knew no formats.
_WAIT_FOR_TEXT = "cloud-init status --wait --long"
_STATUS_LINE = re.compile(r"^status: (.+)$", re.MULTILINE)
_DETAIL = re.compile(r"^(?:detail|errors):\s*\n?(.*)", re.MULTILINE | re.DOTALL)
_LOG = "/var/log/cloud-init-output.log"
# "('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))"
_MODULE = re.compile(r"^\('([\w.-]+)',")
_NOT_FOUND_STATUS = 127


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What cloud-init says of itself.

    Attributes:
        status: ``done``, ``error``, ``disabled``, ``degraded done`` ...
        errors: What failed.
        warnings: What it recovered from (cloud-init 23.4 and later).
    """

    status: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something that was asked for was not done."""
        return bool(self.errors) or self.status not in {"done", "degraded done"}

    @property
    def module(self) -> str | None:
        """The module that failed, where an error names one."""
        for error in self.errors:
            if match := _MODULE.match(error):
                return match[1]
        return None


def read_verdict(done: CompletedCommand) -> Verdict:
    """Read the answer of ``cloud-init status``.

    Raises:
        GuestUnreachableError: It is no answer: cloud-init was interrupted, or is not there.
        ProvisioningError: The guest has no cloud-init.
    """
    if done.exit_status == _NOT_FOUND_STATUS:
        raise ProvisioningError(
            "the guest has no cloud-init, so nothing of `cloud_init` was done",
            hint="use an image with cloud-init, or write `cloud_init: null`",
        )
    # `--wait` of some versions prints dots first.
    start = done.stdout.find("{")
    try:
        answer = json.loads(done.stdout[start:]) if start >= 0 else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise GuestUnreachableError(
            "cloud-init gave no answer",
            details=(done.stderr or done.stdout).strip(),
            hint="log in and see what `cloud-init status --long` says",
        )
    recoverable = answer.get("recoverable_errors") or {}
    return Verdict(
        status=str(answer.get("extended_status") or answer.get("status") or "unknown"),
        errors=tuple(str(error) for error in answer.get("errors") or ()),
        warnings=tuple(
            f"{level}: {text}" for level, texts in recoverable.items() for text in texts
        ),
    )


def read_text(done: CompletedCommand) -> Verdict:
    """Read the answer of ``cloud-init status --long``, as versions before 22.4 give it.

    Raises:
        GuestUnreachableError: It is no answer.
    """
    status = _STATUS_LINE.search(done.stdout)
    if status is None:
        raise GuestUnreachableError(
            "cloud-init gave no answer",
            details=(done.stderr or done.stdout).strip(),
            hint="log in and see what `cloud-init status --long` says",
        )
    detail = _DETAIL.search(done.stdout)
    failed = status[1].strip() == "error"
    said = detail[1].strip() if detail is not None else ""
    return Verdict(status=status[1].strip(), errors=(said or "error",) if failed else ())


def judge(session: SSHSession, *, machine: str, timeout: float, seeded: bool = True) -> Verdict:
    """Wait for cloud-init to end, and return its verdict when it is good.

    Args:
        session: A connection to the guest.
        machine: The machine's name, for messages.
        timeout: Seconds to wait.
        seeded: Whether the guest has a seed in its drive. At later boots it has none, and
            cloud-init may find nothing to do, and be disabled.

    Raises:
        ProvisioningError: Something that was asked for was not done.
        GuestUnreachableError: The connection broke (the guest may be rebooting).
        WaitTimeoutError: It did not end in time.
    """
    began = time.monotonic()
    try:
        verdict = read_verdict(session.run(_WAIT, timeout=timeout))
    except GuestUnreachableError:
        if not session.alive:
            raise
        left = max(1.0, timeout - (time.monotonic() - began))
        verdict = read_text(session.run(_WAIT_FOR_TEXT, timeout=left))
    if not verdict.failed or (verdict.status == "disabled" and not seeded):
        return verdict
    log = session.run(f"sudo -n tail -n 30 {_LOG} || tail -n 30 {_LOG}", timeout=60)
    said = "\n".join(verdict.errors) or f"its status is {verdict.status!r}"
    named = f" in its module '{verdict.module}'" if verdict.module else ""
    raise ProvisioningError(
        f"cloud-init failed in '{machine}'{named}",
        module=verdict.module,
        details=f"{said}\nthe end of {_LOG}:\n{log.stdout.strip() or log.stderr.strip()}",
        hint="mend `cloud_init` in the spec and launch again; `--keep` leaves the machine as it is "
        "to look into",
    )
