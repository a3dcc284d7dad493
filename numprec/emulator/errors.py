"""What goes wrong with a launch on the emulator."""


class Unsupported(NotImplementedError):
    """An operation for which there is no host twin."""


class EmulatorError(RuntimeError):
    """A launch that the card would refuse, or a kernel that cannot go on."""
