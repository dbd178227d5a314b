"""The run directory: made for us alone, or ours already."""

import os
import stat

from ..errors import HostError


def make_run_dir(path: str) -> None:
    """Make the run directory, 0700, or take one that is our own.

    Raises:
        HostError: it is another user's, open to others, or cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(path)
    except OSError as error:
        raise HostError(
            f"cannot make the run directory {path}: {error.filename}: {error.strerror};"
            " set clusterd.run_dir to a directory of your own"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise HostError(f"the run directory {path} is no directory; remove it or set clusterd.run_dir")
    if found.st_uid != os.geteuid():
        raise HostError(
            f"the run directory {path} belongs to uid {found.st_uid}; set clusterd.run_dir to one of your own"
        )
    if found.st_mode & 0o022:
        raise HostError(f"the run directory {path} can be written by others; chmod 700 it, or set clusterd.run_dir")
