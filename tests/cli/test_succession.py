"""What a successor runs with: what was in force, not what the file has become."""

import os
from dataclasses import replace

import msgspec
import pytest

from clusterd.cli import succession
from clusterd.config.load import Loaded, load
from clusterd.primary import handover
from clusterd.primary.handover import Handover, HandoverError

TEXT = """
config_version = 1
[listeners.http]
address = "127.0.0.1:0"
[pools.web]
app = "shop:app"
workers = 3
env = { SECRET = "${HOME}", NIGHT = "" }
limits.core = "unlimited"
[pools.chat]
script = "chat.js"
stop_message = { type = "end", after = [1, 2.5, "x"] }
"""


def loaded(text: str = TEXT) -> Loaded:
    return load(text, file="shop.toml", environ={"HOME": "/root"})


def handed_on(left: Handover) -> Handover:
    fd = handover.write(left)
    try:
        return handover.read(fd)
    finally:
        os.close(fd)


def not_read() -> Loaded:
    raise AssertionError("the file is the next reload's affair")


def test_every_value_in_force_comes_back_and_the_file_is_not_read() -> None:
    was = loaded()
    config = msgspec.structs.replace(was.config, log=msgspec.structs.replace(was.config.log, level="debug"))
    left = handed_on(Handover(loaded=was, config=config))
    assert succession.in_force(left, not_read) == replace(was, config=config)
    assert left.loaded == was


def test_a_primary_that_begins_reads_it() -> None:
    assert succession.in_force(None, loaded) == loaded()


def test_what_an_older_version_left_is_read_again_if_it_is_the_same() -> None:
    """The first version told only what the file's hash was."""
    left = Handover(version=1, config_sha256=loaded().sha256)
    assert succession.in_force(left, loaded) == loaded()
    with pytest.raises(HandoverError, match="reload first"):
        succession.in_force(left, lambda: loaded(TEXT + "# changed\n"))


def test_a_name_that_is_no_text_is_one_sentence() -> None:
    with pytest.raises(HandoverError, match="not UTF-8"):
        handover.write(Handover(clusterd="\udcff"))
