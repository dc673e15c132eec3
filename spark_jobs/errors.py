"""The one family of errors that a user sees."""


class FruitsError(Exception):
    """An error that its reader can act on.

    Its message is a sentence: the offending value, the reason and the remedy. `retry_helps` tells whether the
    same call may succeed later without a change, as after a throttled request.
    """

    def __init__(self, message: str, retry_helps: bool = False) -> None:
        super().__init__(message)
        self.retry_helps = retry_helps
