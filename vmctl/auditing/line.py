"""One line of an audit, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["AuditLine", "Owes", "Verdict", "fails", "holds", "unknown"]


class Verdict(StrEnum):
    """What was found."""

    HOLDS = "holds"
    FAILS = "fails"
    UNKNOWN = "unknown"
    """It can't be seen from here."""


class Owes(StrEnum):
    """Who would have to provide what doesn't hold."""

    NOBODY = ""
    SPEC = "spec"
    HOST = "host"


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One thing that isolates a machine, and whether it holds.

    Attributes:
        check: What was looked at; stable, for programs.
        verdict: ``holds``, ``fails`` or ``unknown``.
        found: What was seen, in a few words.
        owes: Who would have to provide what doesn't hold: ``spec``, ``host``, or nobody (empty).
        needs: What that would be; empty where it holds.
    """

    check: str
    verdict: Verdict
    found: str
    owes: Owes = Owes.NOBODY
    needs: str = ""


def holds(check: str, found: str) -> AuditLine:
    """Return the line of what holds."""
    return AuditLine(check=check, verdict=Verdict.HOLDS, found=found)


def fails(check: str, found: str, *, spec: str = "", host: str = "") -> AuditLine:
    """Return the line of what doesn't, with what the spec or the host would have to provide."""
    owes = Owes.HOST if host else Owes.SPEC
    return AuditLine(check=check, verdict=Verdict.FAILS, found=found, owes=owes, needs=host or spec)


def unknown(check: str, found: str, *, host: str = "") -> AuditLine:
    """Return the line of what can't be seen from here."""
    owes = Owes.HOST if host else Owes.NOBODY
    return AuditLine(check=check, verdict=Verdict.UNKNOWN, found=found, owes=owes, needs=host)
