"""An app that cannot be imported, and takes 0.2 s to find out."""

import time

time.sleep(0.2)
raise RuntimeError("the database is not there")
