"""The error tree.

Every error that leaves vmctl is one of these::

    VmctlError                    exit code 1
     ├─ UsageError                2   the call itself makes no sense
     ├─ NotFoundError             3   no such machine, image, network, snapshot, host
     ├─ ConflictError             4   the name is taken, or somebody else is at work on it
     │   └─ WrongStateError       4   the machine's state does not allow it (see ``state``)
     ├─ HostUnavailableError      5   the hypervisor can't be reached
     │   └─ PermissionDeniedError 5   it can be reached, and refuses this user
     ├─ UnsupportedError          1   this host, or this libvirt, can't do it
     ├─ ResourceError             1   not enough memory or space on the host
     ├─ ImageError                1   an image is missing, damaged or not what it claims to be
     ├─ WaitTimeoutError          6   a phase did not end before its deadline
     ├─ SpecError                 7   the spec is not valid; one line per field
     ├─ GuestError                1   the guest answered, and what it said is bad news
     │   ├─ HostKeyMismatchError  1   somebody answers who is not this guest
     │   ├─ GuestUnreachableError 1   no SSH, no agent; `exec` and `ssh` exit with 255
     │   └─ ProvisioningError     1   cloud-init failed; its log is in ``details``
     ├─ CommandFailedError        1   a command in the guest ended with a status other than 0
     ├─ RollbackError             1   a change failed, and something could not be undone
     └─ HypervisorError           1   anything else that libvirt reports

``brief`` is one sentence and names what it speaks of. ``details`` may have many lines. ``hint``
says what to do. ``exit_code`` is what the command line ends with.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CommandFailedError",
    "ConflictError",
    "GuestError",
    "GuestUnreachableError",
    "HostKeyMismatchError",
    "HostUnavailableError",
    "HypervisorError",
    "ImageError",
    "NotFoundError",
    "PermissionDeniedError",
    "ProvisioningError",
    "ResourceError",
    "RollbackError",
    "SpecError",
    "SpecProblem",
    "UnsupportedError",
    "UsageError",
    "VmctlError",
    "WaitTimeoutError",
    "WrongStateError",
]


class VmctlError(Exception):
    """What every vmctl error is.

    Args:
        brief: One sentence without a full stop at its end.
        details: What was seen, possibly many lines; empty when ``brief`` says it all.
        hint: What to do about it, in one sentence; empty when nothing helps.
    """

    exit_code: int = 1

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.brief}\n{self.details}" if self.details else self.brief

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call __init__ with the brief alone, which subclasses need not accept.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(
    cls: type[VmctlError], args: tuple[object, ...], state: dict[str, object]
) -> VmctlError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(VmctlError):
    """The call itself makes no sense: options that exclude each other, an unknown setting."""

    exit_code = 2


class NotFoundError(VmctlError):
    """There is no such machine, image, pool, network, snapshot or host."""

    exit_code = 3


class ConflictError(VmctlError):
    """The name is taken, or somebody else is changing the same thing."""

    exit_code = 4


class WrongStateError(ConflictError):
    """The machine's state does not allow this. ``state`` is the state it is in."""

    def __init__(self, brief: str, *, state: str, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.state = state


class HostUnavailableError(VmctlError):
    """The hypervisor can't be reached."""

    exit_code = 5


class PermissionDeniedError(HostUnavailableError):
    """The hypervisor, or its socket, refuses this user."""


class UnsupportedError(VmctlError):
    """The host, or its version of libvirt or QEMU, can't do it."""


class ResourceError(VmctlError):
    """The host has not enough memory or storage for it."""


class ImageError(VmctlError):
    """An image is missing, damaged, or not what it claims to be."""


class WaitTimeoutError(VmctlError):
    """A phase did not end before its deadline. ``phase`` is the phase that was waited for."""

    exit_code = 6

    def __init__(self, brief: str, *, phase: str, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.phase = phase


class SpecProblem:
    """One thing that is wrong with a spec.

    ``path`` names the field as a person would write it (``disks[2].bus``, empty for the whole
    spec), ``message`` says what is wrong in the spec's own words.
    """

    __slots__ = ("message", "path")

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def __repr__(self) -> str:
        return f"SpecProblem({self.path!r}, {self.message!r})"


class SpecError(VmctlError):
    """The spec is not valid. ``problems`` has every problem that was found."""

    exit_code = 7

    def __init__(
        self,
        brief: str,
        *,
        problems: Sequence[SpecProblem] = (),
        details: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(
            brief, details=details or "\n".join(str(problem) for problem in problems), hint=hint
        )
        self.problems = tuple(problems)


class GuestError(VmctlError):
    """The guest answered, and what it said is bad news."""


class HostKeyMismatchError(GuestError):
    """Somebody answers on the guest's address who does not have the guest's host key."""


class GuestUnreachableError(GuestError):
    """There is no way into the guest: no SSH, no agent."""


class ProvisioningError(GuestError):
    """cloud-init reported a failure. ``module`` is the failing module, where it is known."""

    def __init__(
        self, brief: str, *, module: str | None = None, details: str = "", hint: str = ""
    ) -> None:
        super().__init__(brief, details=details, hint=hint)
        self.module = module


class CommandFailedError(VmctlError):
    """A command in the guest ended with a status other than 0. ``exit_status`` is that status."""

    def __init__(self, brief: str, *, exit_status: int, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.exit_status = exit_status


class RollbackError(VmctlError):
    """A change failed, and something that had been made could not be removed again.

    ``__cause__`` is the failure itself; ``left`` names what is left over.
    """

    def __init__(
        self, brief: str, *, left: Sequence[str] = (), details: str = "", hint: str = ""
    ) -> None:
        super().__init__(brief, details=details, hint=hint)
        self.left = tuple(left)


class HypervisorError(VmctlError):
    """Anything else that libvirt reports. ``code`` is libvirt's error code (``VIR_ERR_*``)."""

    def __init__(self, brief: str, *, code: int = 0, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.code = code
