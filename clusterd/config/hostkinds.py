"""Kinds of values that name a thing of the host: accounts, files, addresses."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Any

from clusterd.config.address import EXPECTED as ADDRESS_EXPECTED
from clusterd.config.address import Address, parse_address
from clusterd.config.kinds import JsonSchema, Kind, Site, Text


@dataclass(frozen=True)
class Account(Text):
    """A user's or group's name or number."""

    label: str = "name or number"
    expected: str = 'a name or number, such as "www-data"'

    def read(self, value: object, site: Site) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
            return str(value)
        return super().read(value, site)

    def schema(self) -> JsonSchema:
        return {"type": ["string", "integer"], "minimum": 0}


@dataclass(frozen=True)
class FilePath(Text):
    """A path, made absolute; the words in ``words`` are left as they are, and with ``program`` any name without ``/``.

    ``off`` is the kind's way to say off: the number 0 and the string "0" become "".
    """

    label: str = "path"
    expected: str = "a path"
    words: tuple[str, ...] = ()
    program: bool = False
    off: bool = False

    def read(self, value: object, site: Site) -> Any:
        if self.off and (value == "0" or (type(value) is int and value == 0)):
            return ""
        text = super().read(value, site)
        if not text or text in self.words or (self.program and "/" not in text):
            return text
        return os.path.normpath(os.path.join(site.base, text))

    def dump(self, value: Any) -> Any:
        return "0" if self.off and not value else value

    def schema(self) -> JsonSchema:
        return {"anyOf": [super().schema(), {"const": 0}]} if self.off else super().schema()


@dataclass(frozen=True)
class Place(Kind):
    """An address; with ``off``, 0 too, which is held as ``None``."""

    label: str = "address"
    off: bool = False

    def read(self, value: object, site: Site) -> Any:
        if self.off and (value == "0" or (type(value) is int and value == 0)):
            return None
        if not isinstance(value, str):
            return site.expected(ADDRESS_EXPECTED, value)
        try:
            address = parse_address(value)
        except ValueError as error:
            return site.fault(str(error))
        if address.is_file:
            return self._absolute(address, site)
        return address

    def _absolute(self, address: Address, site: Site) -> Any:
        try:
            return parse_address("unix:" + os.path.normpath(os.path.join(site.base, address.path)))
        except ValueError as error:
            return site.fault(str(error))

    def dump(self, value: Any) -> Any:
        return "0" if value is None else str(value)

    def schema(self) -> JsonSchema:
        text: JsonSchema = {"type": "string", "pattern": r"^(?:unix:.+|fd:[0-9]+|.*:[0-9]{1,5})$"}
        if not self.off:
            return text
        return {"anyOf": [{"type": "string", "pattern": f"^0$|{text['pattern']}"}, {"const": 0}]}


@dataclass(frozen=True)
class Proxy(Text):
    """An address or a network whose forwarding headers are believed."""

    label: str = "IP address or network"
    expected: str = 'an IP address, a network such as "10.0.0.0/8", or "*"'
    empty: bool = False

    def read(self, value: object, site: Site) -> Any:
        text = super().read(value, site)
        if text is None or text == "*":
            return text
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            reason = " (bits are set to the right of the network's mask)" if "host bits" in str(error) else ""
            return site.expected(self.expected + reason, value)
        return text
