"""The one exception type for mistakes that the user can mend."""


class InputError(ValueError):
    """A flag, file or combination of them that cannot work.

    The message says who complains, what was given, what is needed and what to do. The command line prints it as one
    line and exits with code 2; everything else that escapes is a defect of the framework and keeps its traceback.
    """
