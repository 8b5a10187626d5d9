"""Who writes at a URI: the driver's name, since when, and a count that only a living driver moves."""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from study.protocol.errors import InputError
from study.protocol.rundir import CLAIM
from study.protocol.settings import SETTINGS
from study.storage.objects import Storage

SYNC_SECONDS = SETTINGS.sync_seconds
"""Between two rounds of uploads, each of which renews the lease."""
LEASE_ROUNDS = 3
"""Rounds without a sign of life after which another driver may take the study over."""
SETTLE_SECONDS = 1.0
"""Wait after claiming, so that of two drivers that claim at once both see which claim lasted."""


class Lease:
    """The claim of this process on the run at a URI."""

    def __init__(self, storage: Storage, say: Callable[[str], None]) -> None:
        self.lost = ""
        """The driver that took the study over; this process then writes no more."""
        self._storage = storage
        self._say = say
        self._key = secrets.token_hex(8)
        self._since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._renewals = 0
        self._renewed = 0.0

    def take(self) -> None:
        """Raises InputError when another driver writes there, OSError when the storage fails."""
        before = self._storage.get(CLAIM)
        if before is not None:
            wait = LEASE_ROUNDS * SYNC_SECONDS
            self._say(
                f"{_driver(before)} wrote to {self._storage.uri}: waiting up to {wait:g} s to see whether it still does"
            )
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline and (now := self._storage.get(CLAIM)) is not None:
                if now != before:
                    raise InputError(
                        f"{self._storage.uri} is being written by {_driver(now)}: one study has one driver. Stop that one, or "
                        "give another folder"
                    )
                time.sleep(SYNC_SECONDS / 10)
        self.renew()
        time.sleep(SETTLE_SECONDS)
        self.renew()
        if self.lost:
            raise InputError(f"{self._storage.uri} is being written by {self.lost}")

    def renew(self) -> None:
        """Show that this driver lives, or find out that another one has taken over. Raises OSError."""
        now = self._storage.get(CLAIM) if self._renewals else None
        if now is not None and self._key.encode() not in now:
            self.lost = _driver(now)
            return
        self._renewals += 1
        who = f"process {os.getpid()} on {socket.gethostname()}"
        claim = {"who": who, "since": self._since, "key": self._key, "renewals": self._renewals}
        self._storage.put(CLAIM, json.dumps(claim).encode())
        self._renewed = time.monotonic()

    def renew_if_due(self) -> None:
        if time.monotonic() > self._renewed + SYNC_SECONDS:
            self.renew()

    def release(self) -> None:
        if not self.lost:
            with suppress(OSError):
                self._storage.delete(CLAIM)


def _driver(claim: bytes) -> str:
    try:
        read = json.loads(claim)
        return f"{read['who']}, since {read['since']}"
    except (ValueError, KeyError, TypeError):
        return "another driver"
