"""Reading ahead: the next block is fetched while the last one is worked on."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Block = TypeVar("_Block")


def read_ahead(blocks: Iterator[_Block]) -> Generator[_Block, None, None]:
    """Yield the blocks in their order, each fetched in a thread while the one before is in use.

    What fetching raises is raised where that block would have come. Close it (`contextlib.closing`)
    where it may not run to its end: that waits for the block in flight, so that nobody reads from a
    file that was closed meanwhile.
    """
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = thread.submit(next, blocks, None)
            yield block
