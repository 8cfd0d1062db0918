# A kernel that prints what comes in by the serial port until a q does, and switches the machine off.

        .intel_syntax noprefix
        .code64
        .global _start

_start: mov     dx, 0x3fd
1:      in      al, dx
        test    al, 1
        jz      1b
        mov     dx, 0x3f8
        in      al, dx
        cmp     al, 'q'
        je      2f
        out     dx, al
        jmp     _start
2:      mov     dx, 0x600
        mov     al, 0x34
        out     dx, al
        hlt
