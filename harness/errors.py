"""The two ways in which work ends early on purpose."""


class UserError(Exception):
    """Bad input. The message is one line: place, value found, rule, remedy."""

    exit_code = 2


class Diverged(Exception):
    """A value that must be finite is not. The message names the value; the trial ends as `diverged`."""
