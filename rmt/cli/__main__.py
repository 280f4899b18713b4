"""``python -m rmt.cli``: the ``rmt`` command, for launchers that want a module."""

from rmt.cli import main

if __name__ == "__main__":
    main()
