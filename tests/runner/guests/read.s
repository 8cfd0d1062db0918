# Reads the disk in three ways and prints the checksum of what each gave:
#   CHS   sectors 1 to 100, by cylinder, head and sector, across the end of a track;
#   LBA   sectors 1 to 2000, by number, in pieces of 100;
#   LAST  the last sector, whose number the disk's parameters tell.

        .include "bios.inc"
        begin

        # By place: 62 sectors to the end of the first track, 38 of the second.
        mov     ax, 0x1000
        mov     es, ax
        xor     bx, bx
        mov     ax, 0x0200 + 62
        mov     cx, 0x0002
        mov     dh, 0
        mov     dl, drive
        int     0x13
        jc      failed
        mov     bx, 62 * 512
        mov     ax, 0x0200 + 38
        mov     cx, 0x0001
        mov     dh, 1
        mov     dl, drive
        int     0x13
        jc      failed
        print   chs
        xor     dx, dx
        mov     cx, 100 * 256
        call    checksum
        mov     ax, dx
        call    print_word

        # By number.
        mov     bx, 0x55aa
        mov     ah, 0x41
        mov     dl, drive
        int     0x13
        jc      failed
        xor     dx, dx
        mov     bp, 20
1:      push    dx
        mov     si, offset packet
        mov     ah, 0x42
        mov     dl, drive
        int     0x13
        pop     dx
        jc      failed
        mov     cx, 100 * 256
        call    checksum
        add     word ptr sector, 100
        dec     bp
        jnz     1b
        push    dx
        print   lba
        pop     ax
        call    print_word

        # The last sector. The parameters begin with how much room there is for them.
        mov     word ptr parameters, 26
        mov     si, offset parameters
        mov     ah, 0x48
        mov     dl, drive
        int     0x13
        jc      failed
        mov     eax, parameters + 16
        dec     eax
        mov     sector, eax
        mov     word ptr count, 1
        mov     si, offset packet
        mov     ah, 0x42
        mov     dl, drive
        int     0x13
        jc      failed
        xor     dx, dx
        mov     cx, 256
        call    checksum
        push    dx
        print   last
        pop     ax
        call    print_word
        print   ok
        jmp     stop

chs:    .asciz  "CHS "
lba:    .asciz  " LBA "
last:   .asciz  " LAST "
ok:     .asciz  " OK\r\n"

        .balign 4
packet: .byte   16, 0
count:  .word   100
        .word   0, 0x1000
sector: .quad   1
        .set    parameters, 0x600
        finish
