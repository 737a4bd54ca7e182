"""A boot sector that says something on the first serial port, and stops there."""

from __future__ import annotations

# 31 c0       xor ax, ax
# 8e d8       mov ds, ax
# be 15 7c    mov si, text        ; 0x7c00 + 21
# ba f8 03    mov dx, 0x3f8       ; COM1
# ac          next: lodsb
# 84 c0       test al, al
# 74 03       jz stop
# ee          out dx, al
# eb f8       jmp next
# f4          stop: hlt
# eb fd       jmp stop
_CODE = bytes.fromhex("31c08ed8be157cbaf803ac84c07403eeebf8f4ebfd")
_SECTOR = 512


def saying(text: str) -> bytes:
    """Return the sector."""
    program = _CODE + text.encode("ascii") + b"\r\n\0"
    return program.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"
