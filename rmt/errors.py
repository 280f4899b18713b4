"""The one exception a user meets: it says what was expected, what was got, and what to do."""


class InputError(ValueError):
    """Bad input from a user.

    Its message is one line. The command line prints it and ends with exit code 2; a library user can catch it as a
    ``ValueError``.
    """
