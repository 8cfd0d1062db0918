# Says nothing and does nothing, for ever.

        .include "bios.inc"
        begin
        jmp     .
        finish
