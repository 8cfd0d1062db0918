# Turns the bits of sector 1 over, writes that to sector 70 by place and to sector 300 by number, reads each back the other
# way and compares.

        .include "bios.inc"
        begin
        mov     si, offset packet
        mov     ah, 0x42
        mov     dl, drive
        int     0x13
        jc      failed

        mov     ax, 0x1000
        mov     ds, ax
        xor     si, si
        mov     cx, 256
1:      not     word ptr [si]
        add     si, 2
        loop    1b
        mov     ds, cx

        # Sector 70 is head 1, sector 8 of the first cylinder.
        mov     ax, 0x1000
        mov     es, ax
        xor     bx, bx
        mov     ax, 0x0301
        mov     cx, 0x0008
        mov     dh, 1
        mov     dl, drive
        int     0x13
        jc      failed
        mov     word ptr sector, 300
        mov     si, offset packet
        mov     ah, 0x43
        mov     dl, drive
        int     0x13
        jc      failed

        # Back: 70 by number to 2000:0, 300 (head 4, sector 49) by place to 3000:0.
        mov     word ptr sector, 70
        mov     word ptr segment, 0x2000
        mov     si, offset packet
        mov     ah, 0x42
        mov     dl, drive
        int     0x13
        jc      failed
        mov     ax, 0x3000
        mov     es, ax
        mov     ax, 0x0201
        mov     cx, 0x0031
        mov     dh, 4
        mov     dl, drive
        int     0x13
        jc      failed

        mov     ax, 0x2000
        call    compare
        mov     ax, 0x3000
        call    compare
        print   ok
        jmp     stop

        # Compares the sectors at 1000:0 and AX:0.
compare:
        push    ds
        mov     es, ax
        mov     ax, 0x1000
        mov     ds, ax
        xor     si, si
        xor     di, di
        mov     cx, 256
        repe cmpsw
        pop     ds
        mov     ah, 0xcc
        jne     failed
        ret

ok:     .asciz  "WRITTEN OK\r\n"
        .balign 4
packet: .byte   16, 0
        .word   1
        .word   0
segment: .word  0x1000
sector: .quad   1
        finish
