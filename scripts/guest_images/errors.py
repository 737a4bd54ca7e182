"""The one error that reaches the user."""


class BuildError(Exception):
    """What went wrong in one line, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
