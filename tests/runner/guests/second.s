# Prints the text at the beginning of the second disk.

        .include "bios.inc"
        begin
        mov     ax, 0x0201
        mov     bx, 0x8000
        mov     cx, 1
        mov     dx, 0x0081
        int     0x13
        jc      failed
        print   0x8000
        jmp     stop
        finish
