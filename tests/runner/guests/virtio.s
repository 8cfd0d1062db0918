# Goes to 32-bit protected mode without paging and drives the first virtio disk by its registers (Virtual I/O Device, 1.2,
# section 4.2): prints on the serial port the checksum of sectors 1 to 2000, read in 40 requests of 50 sectors; then
# writes the first of them back, turned over, to sector 2500, and flushes.

        .intel_syntax noprefix
        .code16
        .global _start

        .set    device, 0xd0000000
        # The queue's three parts, the header and status of a request, and its data.
        .set    descriptors, 0x10000
        .set    available, 0x11000
        .set    used, 0x12000
        .set    header, 0x13000
        .set    status, 0x13100
        .set    data, 0x20000

_start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        # The rest of this program is the next sector.
        mov     ax, 0x0201
        mov     bx, 0x7e00
        mov     cx, 2
        mov     dh, 0
        int     0x13
        jc      halted
        lgdt    gdt_pointer
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     8:protected

halted: hlt

        .code32
protected:
        mov     eax, 16
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     esp, 0x7c00
        cld
        mov     ebx, device

        # Magic, version, a disk.
        cmp     dword ptr [ebx], 0x74726976
        jne     failed
        cmp     dword ptr [ebx + 4], 2
        jne     failed
        cmp     dword ptr [ebx + 8], 2
        jne     failed

        # The registers, as the table has them; the device keeps FEATURES_OK only where it agrees.
        mov     esi, offset table
        xor     eax, eax
0:      lodsb
        xchg    eax, ecx
        lodsd
        mov     [ebx + ecx], eax
        xor     eax, eax
        cmp     esi, offset table_end
        jb      0b
        test    dword ptr [ebx + 0x70], 8
        jz      failed

        # Header, data, status.
        mov     edi, descriptors
        mov     esi, offset chain
        mov     ecx, 12
        rep movsd

        # Read, and add up.
        xor     edx, edx
        mov     dword ptr [header + 8], 1
        mov     ebp, 40
1:      mov     dword ptr [header], 0
        call    request
        mov     esi, data
        mov     ecx, 50 * 256
2:      rol     dx, 1
        add     dx, [esi]
        add     esi, 2
        loop    2b
        add     dword ptr [header + 8], 50
        dec     ebp
        jnz     1b
        push    edx

        # Write what is in memory now, turned over: sectors 1951 to 2000. The buffer is the device's to read.
        mov     esi, data
        mov     ecx, 50 * 128
3:      not     dword ptr [esi]
        add     esi, 4
        loop    3b
        mov     dword ptr [header], 1
        mov     dword ptr [header + 8], 2500
        mov     word ptr [descriptors + 16 + 12], 1
        call    request

        # Flush: no data.
        mov     dword ptr [header], 4
        mov     word ptr [descriptors + 14], 2
        call    request

        mov     esi, offset text
        call    print
        pop     eax
        mov     ecx, 4
4:      rol     ax, 4
        push    eax
        and     al, 15
        cmp     al, 10
        sbb     al, 0x69
        das
        call    print_byte
        pop     eax
        loop    4b
        mov     esi, offset ok
        call    print
        # The keyboard controller pulls the reset line.
        mov     al, 0xfe
        out     0x64, al
stop:   hlt
        jmp     stop

        .org    510
        .word   0xaa55

        # Makes the chain at descriptor 0 available once more and waits until it is used.
request:
        mov     byte ptr [status], 0xff
        movzx   eax, word ptr [available + 2]
        and     eax, 7
        mov     word ptr [available + 4 + eax * 2], 0
        inc     word ptr [available + 2]
        mov     dword ptr [ebx + 0x50], 0
        mov     ax, [available + 2]
5:      cmp     ax, [used + 2]
        jne     5b
        mov     eax, [ebx + 0x60]
        mov     [ebx + 0x64], eax
        cmp     byte ptr [status], 0
        jne     failed
        ret

failed: mov     esi, offset bad
        call    print
        jmp     stop

print:  lodsb
        test    al, al
        jz      6f
        call    print_byte
        jmp     print
6:      ret

print_byte:
        push    edx
        mov     dx, 0x3f8
        out     dx, al
        pop     edx
        ret

text:   .asciz  "VIRTIO "
ok:     .asciz  " OK\r\n"
bad:    .asciz  "FAILED\r\n"

        # Reset; acknowledge and drive; accept nothing but version 1; features are settled; a queue of 8; go.
        .macro  register offset, value
        .byte   \offset
        .long   \value
        .endm
table:  register 0x70, 0
        register 0x70, 3
        register 0x24, 1
        register 0x20, 1
        register 0x70, 11
        register 0x30, 0
        register 0x38, 8
        register 0x80, descriptors
        register 0x90, available
        register 0xa0, used
        register 0x44, 1
        register 0x70, 15
table_end:

chain:  .long   header, 0, 16
        .word   1, 1
        .long   data, 0, 50 * 512
        .word   3, 2
        .long   status, 0, 1
        .word   2, 0

        .balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   23
        .long   gdt
        .org    1024
