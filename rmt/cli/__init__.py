"""The command line: the roof of the house, the only part of ``rmt`` that may import the other packages."""

from __future__ import annotations


def main() -> None:
    """The ``rmt`` command."""
    from rmt.cli.app import app

    app()
