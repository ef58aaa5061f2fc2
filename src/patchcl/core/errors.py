"""The one exception that a user can correct."""


class UserError(Exception):
    """Something a user can put right: the message names what was found, what was expected and what to do.

    The command line shows the message alone, without a traceback, and exits with code 2.
    """
