"""Runs targets of the Makefile in tests, without installing packages."""

import os

# `--old-file` keeps make from installing the packages.
MAKE = ["make", "--old-file=.venv/.installed-dev", "EXTRAS=dev"]


def make_environment(**variables: str) -> dict[str, str]:
    """Return the environment without what a surrounding `make test` set, with `variables`."""
    names = ("DAGSTER_HOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    return {n: value for n, value in os.environ.items() if n not in names} | variables
