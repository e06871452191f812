"""What goes wrong through no fault of the program, so that it can be told in one sentence.

Anything else that is raised is a fault of undiffuse or of a library: it keeps its traceback.
"""

from __future__ import annotations


class UsageError(ValueError):
    """A setting, a file or data that cannot be used. The message is one sentence, with the fix."""


class Failure(RuntimeError):
    """What was asked for is right, but cannot be done here and now. The message is one sentence, with what to do."""
