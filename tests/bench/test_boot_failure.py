"""An app that fails at import: five attempts, doubling delays, exit 1, and the traceback as the last words."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime

from tests.bench import arena


def test_boot_failure() -> None:
    """Exactly 5 attempts, delays 0.2/0.4/0.8/1.6 s (plus 0-20 %), exit 1 within 6 s, the traceback in the report."""
    took, attempts, off = [], [], []
    told = 0
    for _ in range(arena.ROUNDS):
        run_dir = f"/tmp/clusterd-bench-{os.getpid()}-broken"
        argv = [sys.executable, "-m", "clusterd", "run", "broken:app", "-w", "4", "-b", "127.0.0.1:0"]
        argv += ["--set", "monitoring.address=127.0.0.1:0", "--set", f"clusterd.run_dir={run_dir}"]
        begun = time.monotonic()
        done = subprocess.run(argv, cwd=arena.APPS, capture_output=True, text=True, timeout=60)
        took.append(time.monotonic() - begun)
        shutil.rmtree(run_dir, ignore_errors=True)
        assert done.returncode == 1, done
        told += "RuntimeError: the database is not there" in done.stderr
        records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        failed = [datetime.fromisoformat(one["timestamp"]) for one in records if one["event"] == "zygote_failed"]
        attempts.append(float(len(failed)))
        delays = [one["retry_in"] for one in records if one["event"] == "zygote_failed" and "retry_in" in one]
        off.append(max(abs(delay / wanted - 1.1) for delay, wanted in zip(delays, (0.2, 0.4, 0.8, 1.6), strict=True)))
    arena.report(
        "boot_failure",
        [
            arena.Figure("attempts", "exactly 5", attempts, lambda v: v == 5),
            arena.Figure("delays: furthest from the row plus 10 %", "at most 0.1", off, lambda v: v <= 0.1001),
            arena.Figure("exit 1 after", "within 6 s", took, lambda v: v <= 6.0, unit=" s"),
            arena.Figure("reports with the traceback", "all", [float(told)], lambda v: v == arena.ROUNDS),
        ],
    )
