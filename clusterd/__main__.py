"""``python -m clusterd``."""

from clusterd.cli import main

if __name__ == "__main__":
    main()
