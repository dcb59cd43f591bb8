"""Pointers of git-lfs: what a clone without git-lfs has in the place of each large file."""

POINTER = b"version https://git-lfs.github.com/spec/v1"
POINTER_BYTES = 1024
"""No pointer is longer."""
IS_POINTER = "is a pointer of git-lfs, not the file itself"
FETCH = "Run git lfs pull where the repository was cloned, or download the file itself."


def is_pointer(data: bytes | bytearray | memoryview) -> bool:
    """Whether a file that begins with these bytes is a pointer."""
    return bytes(data[: len(POINTER)]) == POINTER
