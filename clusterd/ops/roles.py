"""Who may do what over a control socket: roles by the credentials that the kernel has of the peer."""

import grp
import os
import pwd
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from clusterd.errors import HostError
from clusterd.ops.exchange import Credentials

ROOT = 0
own_uid = os.geteuid


class Role(IntEnum):
    """What somebody may do; each may what those below it may.

    An observer sees everything; an operator changes what the service does; an admin ends or replaces it.
    """

    OBSERVER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def title(self) -> str:
        """``observer``, ``operator``, ``admin``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Accounts:
    """Users and groups, by number."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def have(self, peer: Credentials) -> bool:
        """Whether the peer is one of them."""
        return peer.uid in self.users or not self.groups.isdisjoint({peer.gid, *peer.groups})


def accounts(key: str, users: Iterable[str], groups: Iterable[str]) -> Accounts:
    """The accounts of a table of the configuration, by name or number.

    Args:
        key: the table, for the message.

    Raises:
        HostError: this machine has no such user or group.
    """

    def numbers(kind: str, names: Iterable[str], look_up: Callable[[str], int]) -> frozenset[int]:
        found = set()
        for name in names:
            try:
                found.add(int(name) if name.isascii() and name.isdigit() else look_up(name))
            except (KeyError, ValueError):
                raise HostError(f"{key}.{kind}s: there is no {kind} {name!r} on this machine") from None
        return frozenset(found)

    return Accounts(
        numbers("user", users, lambda name: pwd.getpwnam(name).pw_uid),
        numbers("group", groups, lambda name: grp.getgrnam(name).gr_gid),
    )


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles at one socket. Root and the user that the service runs as are admins.

    Attributes:
        at_most: nobody is more here.
        everybody: the role of those who are not named; ``None``: they are refused.
    """

    operators: Accounts = Accounts()
    admins: Accounts = Accounts()
    at_most: Role = Role.ADMIN
    everybody: Role | None = None

    def of(self, peer: Credentials | None) -> Role | None:
        """The peer's role; ``None``: it is refused everything."""
        role = self.everybody
        if peer is not None:
            if peer.uid in (ROOT, own_uid()) or self.admins.have(peer):
                role = Role.ADMIN
            elif self.operators.have(peer):
                role = Role.OPERATOR
        return None if role is None else min(role, self.at_most)


OBSERVERS = Roles(at_most=Role.OBSERVER, everybody=Role.OBSERVER)
"""Of the observer socket: its file's mode says who may connect, and reading is all there is."""


def roles(operators: tuple[Sequence[str], Sequence[str]], admins: tuple[Sequence[str], Sequence[str]]) -> Roles:
    """The roles that the tables ``control.operators`` and ``control.admins`` give, each as (users, groups).

    Raises:
        HostError: this machine has no such user or group.
    """
    return Roles(accounts("control.operators", *operators), accounts("control.admins", *admins))
