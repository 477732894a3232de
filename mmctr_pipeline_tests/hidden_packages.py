"""Hides installed packages from a Python program, as if they were not installed."""

_SOURCE = """
import sys

class HidingFinder:
    # Works like another finder, but does not find the hidden packages.
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [HidingFinder(finder) for finder in sys.meta_path]
"""


def hide_packages(*names: str) -> str:
    """Return source code that hides the packages from the rest of a program."""
    return _SOURCE.replace("HIDDEN", repr(set(names)))
