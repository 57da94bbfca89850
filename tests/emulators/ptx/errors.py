"""What the emulator finds."""


class EmulationError(Exception):
    """A program does what it must not, or what the emulator does not know."""


class Unknown(EmulationError):
    """An instruction, or a form of one, that the emulator lacks."""


class Invalid(EmulationError):
    """Outside of memory, misaligned, or against the rules of an instruction."""


class Race(EmulationError):
    """Two accesses to the same place, one of them a write, that nothing puts in order."""


class Deadlock(EmulationError):
    """Every program waits for another."""
