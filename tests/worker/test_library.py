"""uvicorn without its command line: lighter, and whole for an application that uses it."""

import subprocess
import sys


def told(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_command_line_and_what_it_needs_are_not_there() -> None:
    code = (
        "import sys, clusterd.worker.boot; print(sorted({'click', 'uvicorn.main', 'multiprocessing'} & {*sys.modules}))"
    )
    assert told(code) == "[]\n"


def test_an_application_finds_uvicorn_whole() -> None:
    code = (
        "import clusterd.worker.boot, uvicorn, uvicorn.server\n"
        "print(uvicorn.Server is uvicorn.server.Server, uvicorn.Config.__name__)\n"
        "try: uvicorn.run('nothing:app', port=0, log_level='critical')\n"
        "except SystemExit: print('it ran')\n"
        "import uvicorn.main as whole; print(whole.Server is uvicorn.server.Server, whole.main.name)"
    )
    assert told(code) == "True Config\nit ran\nTrue main\n"
