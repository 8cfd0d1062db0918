# Asks INT 13h for what no boot sector would and prints each status; then calls it with a stack outside the memory.

        .include "bios.inc"

        # Calls INT 13h and prints AH as a letter, A for 0; an exclamation mark where carry does not say that it failed.
        .macro  ask
        int     0x13
        call    print_status
        .endm

        # By place: AX, CX, DX and the buffer's segment and offset.
        .macro  place ax_, cx_, dx_, segment, offset
        .word   \ax_, \cx_, \dx_, \segment, \offset
        .endm

        # By number: size of the packet, count, the buffer's offset and segment, sector.
        .macro  number size, count, offset, segment, sector
        .word   \size, \count, \offset, \segment
        .quad   \sector
        .endm

        begin
        mov     di, offset places
1:      mov     ax, [di]
        mov     cx, [di + 2]
        mov     dx, [di + 4]
        mov     es, [di + 6]
        mov     bx, [di + 8]
        ask
        add     di, 10
        cmp     di, offset packets
        jb      1b
2:      mov     si, di
        mov     ah, 0x42
        mov     dl, 0x80
        ask
        add     di, 16
        cmp     di, offset packets_end
        jb      2b

        # A packet, and room for parameters, outside a memory of 1 MiB.
        mov     ax, 0xffff
        mov     ds, ax
        mov     si, 0xfff0
        mov     ah, 0x42
        mov     dl, 0x80
        ask
        mov     ah, 0x48
        ask

        mov     ax, 0xffff
        mov     ss, ax
        mov     sp, 0xfff0
        xor     ax, ax
        int     0x13
        jmp     stop

print_status:
        mov     al, ah
        jc      3f
        mov     al, '!' - 'A'
3:      add     al, 'A'
        mov     ah, 0x0e
        int     0x10
        ret

places: place   0x0200, 0x0002, 0x0080, 0x1000, 0
        place   0x0201, 0x0000, 0x0080, 0x1000, 0
        place   0x0201, 0x0002, 0xff80, 0x1000, 0
        place   0x0201, 0x0002, 0x0085, 0x1000, 0
        place   0x0201, 0xffc2, 0x0080, 0x1000, 0
        place   0x0201, 0x0002, 0x0080, 0xffff, 0xffff
        place   0x0301, 0x0002, 0x0080, 0xffff, 0xffff
packets:
        number  15, 1, 0, 0x1000, 0
        number  16, 1, 0, 0x1000, 0xffffffffffffffff
        number  16, 0xffff, 0, 0x1000, 0xffffffffffffffff
        number  16, 0xffff, 0, 0x1000, 0x7fffffffffffff
        number  16, 1, 0xffff, 0xffff, 0
packets_end:
        finish
