"""``python -m snaptree``, the same as the command ``snaptree``.  Not for: import."""

from .cli.main import entry

if __name__ == "__main__":
    entry()
