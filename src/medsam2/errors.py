"""What can go wrong, as types a caller can catch.

MedSAM2Error
├── InputError            something the caller gave is not usable; the message says what would be
│   ├── UnsupportedFormat   the file is not, or not completely, in a format we read
│   ├── GeometryError       a grid that is impossible, or two grids that should agree and do not
│   └── PromptError         a box, point, mask or slice that does not lie in the image
├── CheckpointError       weights that are missing, damaged or of another network
├── SessionError          an operation the session's state does not allow
└── ServerError           a server that is not there, is busy or has failed; trying again may do
"""


class MedSAM2Error(Exception):
    """Base of every exception this package raises on purpose."""


class InputError(MedSAM2Error, ValueError):
    """Something the caller gave is not usable."""


class UnsupportedFormat(InputError):
    """A file is not, or not completely, in a format we read."""


class GeometryError(InputError):
    """A grid is impossible, or two grids that should agree do not."""


class PromptError(InputError):
    """A box, point, mask or slice does not lie in the image."""


class CheckpointError(MedSAM2Error):
    """Weights are missing, damaged or belong to another network."""


class SessionError(MedSAM2Error):
    """The session's state does not allow the operation."""


class ServerError(MedSAM2Error):
    """A server is not there, is busy or has failed.

    Args:
        text: One sentence.
        retry_after_s: When the server says that it is worth trying again, if it says so.
    """

    def __init__(self, text: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
