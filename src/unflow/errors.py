"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """One sentence: what we got, what we expected, what to write instead.

    The command line prints the sentence alone and exits with code 2; in Python it is a ``ValueError``.
    """
