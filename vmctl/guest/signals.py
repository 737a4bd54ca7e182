"""How a command ended that a signal ended: paramiko does not listen to that part of the answer.

https://www.rfc-editor.org/rfc/rfc4254#section-6.10
"""

from __future__ import annotations

import signal
from typing import Any, cast

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST

__all__ = ["hearing_transport"]

# What a shell says of a command that a signal ended.
_BY_SIGNAL = 128
_UNKNOWN = 127


def _number(name: str) -> int:
    """Return the number of a signal that is called without its SIG."""
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError:
        return _UNKNOWN


def _on_request(channel: Any, message: Any) -> None:
    begin = message.packet.tell()
    if message.get_text() == "exit-signal":
        _wants_reply = message.get_boolean()
        channel.exit_status = _BY_SIGNAL + _number(message.get_text())
        channel.status_event.set()
        return
    message.packet.seek(begin)
    channel._handle_request(message)


class _Hearing(paramiko.Transport):
    _channel_handler_table: Any = {  # noqa: RUF012 - paramiko's own
        **cast("Any", paramiko.Transport)._channel_handler_table,
        MSG_CHANNEL_REQUEST: _on_request,
    }


def hearing_transport(sock: Any, **how: Any) -> paramiko.Transport:
    """Return a connection on which a command that a signal ended has a status, as of a shell."""
    return _Hearing(sock, disabled_algorithms=how.get("disabled_algorithms"))
