# A kernel that is none: checks what the 64-bit boot protocol of Linux promises, prints its command line and its initial
# RAM disk on the serial port, and restarts the machine.

        .intel_syntax noprefix
        .code64
        .global _start

_start:
        # The zero page: its signatures and a memory map.
        cmp     word ptr [rsi + 0x1fe], 0xaa55
        jne     failed
        cmp     dword ptr [rsi + 0x202], 0x53726448
        jne     failed
        cmp     byte ptr [rsi + 0x1e8], 3
        jb      failed
        # Where the tables are that describe the machine.
        mov     rax, [rsi + 0x70]
        cmp     dword ptr [rax + 4], 0x20525450
        jne     failed
        # Segments, as the protocol has them.
        mov     ax, cs
        cmp     ax, 0x10
        jne     failed
        mov     ax, ds
        cmp     ax, 0x18
        jne     failed

        mov     r8, rsi
        mov     esi, [r8 + 0x228]
1:      lodsb
        test    al, al
        jz      2f
        call    print
        jmp     1b
2:      mov     al, '|'
        call    print
        mov     esi, [r8 + 0x218]
        mov     ecx, [r8 + 0x21c]
3:      lodsb
        call    print
        loop    3b
        mov     al, 0xfe
        out     0x64, al
stop:   hlt
        jmp     stop

failed: mov     al, '!'
        call    print
        jmp     stop

print:  mov     dx, 0x3f8
        out     dx, al
        ret
