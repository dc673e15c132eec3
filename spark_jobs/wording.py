"""Numbers in messages."""


def counted(number: int, singular: str, plural: str) -> str:
    """The number with the noun that agrees with it: `1 class`, `1,024 classes`."""
    return f"{number:,} {singular if number == 1 else plural}"
