// What a host adds to the tables: a program that writes a word of guest memory, reads it
// back, and says so on the serial port. `iasl hostile.asl` makes hostile.aml.

DefinitionBlock ("", "SSDT", 1, "COCOON", "HOSTILE ", 1)
{
    OperationRegion (MEMR, SystemMemory, 0x20000000, 4)
    Field (MEMR, DWordAcc, NoLock, Preserve) { MEMV, 32 }
    OperationRegion (COMR, SystemIO, 0x3F8, 1)
    Field (COMR, ByteAcc, NoLock, Preserve) { CHAR, 8 }
    Name (TEXT, Buffer () { "AML WROTE MEMORY\n" })
    Device (\_SB.EVIL)
    {
        Name (_HID, "EVIL0001")
        Method (_INI, 0, NotSerialized)
        {
            MEMV = 0x600DF00D
            If ((MEMV == 0x600DF00D))
            {
                Local0 = 0
                While ((Local0 < 17))
                {
                    CHAR = DerefOf (TEXT [Local0])
                    Local0++
                }
            }
        }
    }
}
