# Makes an exception that cannot be handled: the table of vectors is said to have no entries.

        .include "bios.inc"
        begin
        lidt    nothing
        int     3
nothing: .word  0
        .long   0
        finish
