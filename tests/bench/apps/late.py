"""An app whose import takes half a second."""

import time

from hello import app  # noqa: F401 - what is served

time.sleep(0.5)
