"""The error class for messages to users."""


class FruitsError(Exception):
    """An error that a user can correct.

    The message is a sentence with the offending value, the reason and the remedy. `retry_helps` is true if
    the same call may succeed later without a change, for example after a throttled request.
    """

    def __init__(self, message: str, retry_helps: bool = False) -> None:
        super().__init__(message)
        self.retry_helps = retry_helps
