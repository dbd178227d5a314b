"""``python -m clusterd.spawner CONTROL STDOUT STDERR ROOM``: a zygote. Started by the primary only.

The last argument is blank: process titles are written over it.
"""

import sys

from .zygote import main

if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
