"""Write a run for a tool that people have open, and follow it if asked."""

import argparse
import signal

from rich.console import Console

from study.loggers import feed
from study.protocol.errors import DONE
from study.storage.fetch import local, refresher


def command(given: argparse.Namespace, console: Console) -> int:
    home = local(given.run)
    try:
        where = feed.write(home, given.to, follow=given.follow, refresh=refresher(given.run))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    console.print(where)
    return DONE
