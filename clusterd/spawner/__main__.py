"""``python -m clusterd.spawner CONTROL STDOUT STDERR``: a zygote. Started by the primary only."""

import sys

from .zygote import main

if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
