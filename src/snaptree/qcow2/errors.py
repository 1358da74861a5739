"""The ways in which an image cannot be read, as classes of ImageError.  Not for: other rooms' errors.

::

    ImageError                 the file cannot be opened or read
     ├── NotQcow2              it is of another format
     ├── UnsupportedImage      whole, but of a kind that is not read here
     ├── ImageChanging         it changed each time while it was read
     └── DamagedImage          it contradicts itself or qcow2; QEMU would refuse it too
          └── CutShort         more bytes are needed than were given
"""

from __future__ import annotations

from snaptree.model.errors import ImageError

CHECK_IT = "`qemu-img check` says more; never repair an image that a QEMU has open."


class NotQcow2(ImageError):
    """The file is no qcow2 image."""


class UnsupportedImage(ImageError):
    """The image, or this part of it, is of a kind that is not read here; that is no damage."""


class ImageChanging(ImageError):
    """The image changed each time while it was read."""


class DamagedImage(ImageError):
    """The image contradicts itself or the format."""

    def __init__(self, message: str, remedy: str = CHECK_IT) -> None:
        super().__init__(message, remedy)


class CutShort(DamagedImage):
    """A structure goes on behind the bytes that were given: damage where there are no more.

    :param needed: how many bytes, counted from where the given ones begin, are needed at least.
    """

    def __init__(self, message: str, remedy: str = CHECK_IT, *, needed: int = 0) -> None:
        super().__init__(message, remedy)
        self.needed = needed
