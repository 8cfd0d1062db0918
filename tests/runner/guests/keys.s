# Prints what is typed until a q is, each key once it was looked at and then taken.

        .include "bios.inc"
        begin
1:      mov     ah, 0
        int     0x16
        cmp     al, 'q'
        je      stop
        mov     ah, 0x0e
        int     0x10
        mov     ah, 1
        int     0x16
        jz      1b
        # The next one is there: it is the same when it is taken.
        mov     bl, al
        mov     ah, 0
        int     0x16
        cmp     al, bl
        mov     ah, 0xcc
        jne     failed
        cmp     al, 'q'
        je      stop
        mov     ah, 0x0e
        int     0x10
        jmp     1b
        finish
