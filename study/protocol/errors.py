"""Errors whose message is a sentence for the user. Each class carries the exit code of the command that it ends.

An arm's own error is ``search_spaces.ArmError``, which may not import this package; it ends a command with ``BAD_INPUT``.
"""

DONE, DIFFERENT, BAD_INPUT, UNFINISHED = 0, 1, 2, 3
"""Exit codes; a signal's is 128 and its number."""


class StudyError(Exception):
    """The study cannot go on now. What it did is kept, and it can be resumed."""

    exit_code = UNFINISHED
    resumable = True


class InputError(StudyError):
    """A request that cannot be met as it stands; the message says what would work."""

    exit_code = BAD_INPUT
    resumable = False


class FinalError(StudyError):
    """The study cannot go on, and resuming it as it is would end the same way."""

    resumable = False


class LedgerError(StudyError):
    """A ledger that cannot be trusted or written; the message says where and why."""
