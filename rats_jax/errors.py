"""The error that a command shows as one line; it imports nothing, so that every folder may raise it."""


class ConfigError(ValueError):
    """The input is wrong and its author can mend it: names the field, the value and what was expected."""


class WeightsError(ConfigError):
    """Weights that are missing, left over, or of another shape or kind than the architecture asks for."""


class HackingError(RuntimeError):
    """The student climbs its reward at the cost of what it is not trained on."""


class DivergedError(RuntimeError):
    """Training produced numbers that are not finite; says where, and what is kept."""


class ExportError(RuntimeError):
    """What was exported does not draw what the student draws."""
