"""Errors that the emulator raises."""


class EmulationError(Exception):
    """A program is incorrect, or uses a feature that the emulator does not implement."""


class Unknown(EmulationError):
    """The emulator does not implement an instruction, or this form of it."""


class Invalid(EmulationError):
    """An access is out of bounds or misaligned, or breaks a rule of its instruction."""


class Race(EmulationError):
    """Two accesses to the same location, at least one of them a write, are unordered."""


class Deadlock(EmulationError):
    """All running programs wait for each other, or a program does not terminate."""
