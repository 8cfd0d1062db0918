# Says hello.

        .include "bios.inc"
        begin
        print   hello
        jmp     stop
hello:  .asciz  "HELLO FROM LUKS\r\n"
        finish
