"""What can go wrong when operating, for the command line to tell; imports nothing, so that errors are told at once."""


class RunFailed(RuntimeError):
    """A Dagster run failed; the message says which step and why."""

    def __init__(self, message: str, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class HomeError(RuntimeError):
    """The home cannot serve this command; the message says what to do."""


class WrongRequest(RuntimeError):
    """What was asked for cannot be done; the message says why and what to do."""
