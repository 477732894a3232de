"""Try a step again after a transient error of disk, network or database, and after no other.

A damaged file, a wrong setting or a failed check would only fail again.
"""

import contextlib
import errno
from collections.abc import Iterator

import dagster as dg
import sqlalchemy.exc

MAX_RETRIES = 2
WAIT_SECONDS = 20.0

TRANSIENT = {
    *(errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
}
"""Error numbers that may pass by themselves, as when a network disk is unavailable for a moment.
Missing files, permissions and a full disk are not among them."""


@contextlib.contextmanager
def retrying() -> Iterator[None]:
    """Let Dagster try the step again later if the block fails with a transient error."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise dg.RetryRequested(MAX_RETRIES, WAIT_SECONDS) from error
        raise


def is_transient(error: BaseException | None) -> bool:
    """Return whether an error, or an error that it was raised from, may pass by itself."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            return True
        if isinstance(error, TimeoutError | ConnectionError):
            return True
        if isinstance(error, sqlalchemy.exc.OperationalError) and (
            error.connection_invalidated or "database is locked" in str(error.orig)
        ):
            return True
        error = error.__cause__
    return False
