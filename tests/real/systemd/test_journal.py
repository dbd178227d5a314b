"""The log in the real journal: each record with its priority, an app's own too."""

import json

from tests.real.looking import app
from tests.real.systemd.machine import Deployer, Unit

TALKATIVE = app("""
import json
async def answer(path):
    print(json.dumps({"event": "paid", "level": path.strip("/"), "order": 7}), flush=True)
    return "said"
""")


def told(unit: Unit, priority: str) -> list[dict[str, object]]:
    """The records of this priority alone."""
    done = unit.machine.run(
        "journalctl", "-u", unit.service, "-p", f"{priority}..{priority}", "-o", "cat", "--no-pager"
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_what_is_logged_has_its_priority_in_the_journal(deploy: Deployer) -> None:
    unit = deploy(TALKATIVE)
    unit.start()
    for level in ("info", "error"):
        assert "said" in unit.get(f"/{level}")

    def priorities() -> dict[str, str]:
        return {
            str(record["app"]["level"]): priority  # type: ignore[index]
            for priority in ("info", "err")
            for record in told(unit, priority)
            if record["event"] == "output" and "app" in record
        }

    unit.wait(lambda unit: priorities() == {"info": "info", "error": "err"}, "both lines in the journal")
    assert any(record["event"] == "worker_ready" for record in told(unit, "info"))
    assert not any(record["event"] == "worker_ready" for record in told(unit, "err"))
