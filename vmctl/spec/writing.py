"""Writing a spec as a record without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmctl.spec.machine import VMSpec

__all__ = ["without_secrets"]

_SECRET = ("user_data", "vendor_data", "network_config", "runcmd", "bootcmd")


def without_secrets(spec: VMSpec) -> dict[str, Any]:
    """Give what is written in the spec, without what may be secret."""
    record: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    cloud_init = record.get("cloud_init")
    redacted: list[str] = []
    if cloud_init:
        for name in _SECRET:
            _drop(cloud_init, name, "cloud_init", redacted)
        for index, user in enumerate(cloud_init.get("users", ())):
            _drop(user, "hashed_passwd", f"cloud_init.users[{index}]", redacted)
            if user.get("lock_passwd") is False:
                del user["lock_passwd"]
        for index, file in enumerate(cloud_init.get("write_files", ())):
            _drop(file, "content", f"cloud_init.write_files[{index}]", redacted)
    for index, server in enumerate(record.get("graphics") or ()):
        _drop(server, "password", f"graphics[{index}]", redacted)
    if redacted:
        record["redacted"] = redacted
    return record


def _drop(holder: dict[str, Any], name: str, where: str, redacted: list[str]) -> None:
    if holder.pop(name, None):
        redacted.append(f"{where}.{name}")
