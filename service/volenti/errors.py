"""The few exceptions that may cross rooms. Expected answers are values; these are for what a caller could not prevent."""


class VolentiError(Exception):
    """The family: everything that a room lets out on purpose. The message is one sentence without personal data."""


class NotFound(VolentiError):
    """What was named does not exist, or belongs to another workspace: the two look the same."""


class Conflict(VolentiError):
    """The write contradicts what is stored; nothing was changed."""


class Invalid(VolentiError):
    """What was given cannot be used: a file, an argument, a document. Nothing was changed."""


class Unavailable(VolentiError):
    """Something that is needed cannot be reached, or is full, at the moment; the same call may succeed later."""


class LedgerDamaged(VolentiError):
    """What is stored contradicts itself: a missing tile, a wrong hash, a row that does not open."""


class VerificationError(VolentiError):
    """A proof, a signature or a note does not verify."""


def told(error: Exception) -> str:
    """What may be logged of an error of whatever kind: a sentence of ours, else its kind alone; its text may hold values."""
    return str(error) if isinstance(error, VolentiError) else type(error).__name__
