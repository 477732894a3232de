"""Read ahead in threads, in order: batches of one source, or many small files."""

import collections
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def read_ahead(batches: Iterator[_Out]) -> Generator[_Out, None, None]:
    """Yield the batches in order, each fetched in a thread while the previous one is in use.

    If fetching a batch fails, the error is raised in its place. A caller that may stop early must
    close the generator (`contextlib.closing`). Closing waits until the thread has fetched its
    batch, so that the caller can then close the file that the batches come from.
    """
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def in_threads(
    work: Callable[[_In], _Out], inputs: Sequence[_In], ahead: int, n_threads: int | None = None
) -> Iterator[_Out]:
    """Yield `work(input)` for each input, in order; at most `ahead` inputs are worked on at once.

    Uses `n_threads` threads, by default one per core, for work that releases the interpreter lock:
    reading, hashing, decoding.
    """
    waiting: collections.deque[Future[_Out]] = collections.deque()
    pool = ThreadPoolExecutor(n_threads or n_cores(), thread_name_prefix="read")
    try:
        for item in inputs:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
