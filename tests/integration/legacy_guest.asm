; A guest that has nothing but a keyboard, a screen and a serial port.
org 0x7c00
bits 16
start:
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7c00
    cld
    sti
    mov ax, 3           ; text, 80x25
    int 0x10
    mov dx, 0x3fa       ; COM1: FIFO on
    mov al, 7
    out dx, al
    mov ax, 0xb800
    mov es, ax
    mov di, 23*160      ; line 23 green, line 24 red
    mov cx, 80
    mov ax, 0x02db
    rep stosw
    mov cx, 80
    mov ax, 0x04db
    rep stosw
    mov si, banner
.say:
    lodsb
    test al, al
    jz main
    call put
    jmp .say
main:
    mov ah, 1
    int 0x16
    jz .serial
    mov ah, 0
    int 0x16
    test al, al
    jz .scan
    cmp al, 0xe0
    je .scan
    call feed
    jmp main
.scan:                  ; a key without a character: <scan code>
    mov cl, ah
    mov al, '<'
    call put
    mov al, cl
    shr al, 4
    call hex
    mov al, cl
    and al, 15
    call hex
    mov al, '>'
    call put
    jmp main
.serial:
    mov dx, 0x3fd
    in al, dx
    test al, 1
    jz .idle
    mov dx, 0x3f8
    in al, dx
    call feed
    jmp main
.idle:
    hlt
    jmp main
feed:                   ; Enter: the prompt; Ctrl-F: a flood; anything else: echoed
    cmp al, 13
    je put.enter
    cmp al, 6
    je flood
put:                    ; to the screen and the serial port
    mov ah, 0x0e
    mov bx, 7
    int 0x10
    mov ah, al
    mov dx, 0x3fd
.busy:
    in al, dx
    test al, 0x20
    jz .busy
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    ret
.enter:
    mov si, prompt
.next:
    lodsb
    test al, al
    jz .done
    call put
    jmp .next
.done:
    ret
hex:
    add al, '0'
    cmp al, '9'
    jbe put
    add al, 'a'-'0'-10
    jmp put
flood:
    mov dx, 0x3f8
    mov al, 'x'
    mov cx, 79
.line:
    out dx, al
    loop .line
    mov al, 10
    out dx, al
    jmp flood
banner: db 'Legacy system ready'
prompt: db 13, 10, 'A:\>', 0
times 510-($-$$) db 0
dw 0xaa55
