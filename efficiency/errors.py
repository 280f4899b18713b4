"""What a user can put right."""


class InputError(ValueError):
    """Bad input: what was expected, what came, what to do."""
