"""A study resumes only under the same question, on the same data and with the same code."""

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from search_spaces._names import parse
from study.protocol.consistency import check_question, plan_hash
from study.protocol.errors import InputError
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.question import DataCard
from study.protocol.records import Session, asdict
from study.protocol.rundir import RunDir

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "scipy", "timm")
ROOT = Path(__file__).parent.parent
ARMS = "search_spaces/"
ROOMS = ("training", "data", "protocol", "scheduling", "execution")
"""Of ``study``: what decides what trials run and when. Loggers, commands and the report change no result."""


def session(run: RunDir, arms: Iterable[str], recipe: str) -> Session:
    """The record of this process: plan, code and versions that it would write the study of these arms with."""
    return Session(plan=plan_hash(run), code=code(arms, recipe), versions=versions(), accepted="")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def code(arms: Iterable[str], recipe: str) -> dict[str, str]:
    """Source file -> SHA-256, for all code that trials of these arms and their schedule run."""
    recipes = ROOT / ARMS / "recipes"
    files = {
        *(file for room in ROOMS for file in (ROOT / "study" / room).rglob("*.py")),
        *_files(arms),
        recipes / "__init__.py",
        recipes / f"{recipe}.py",
    }
    return {str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def code_hash(arms: Iterable[str], recipe: str) -> str:
    """SHA-256 over all of ``code``."""
    return hashlib.sha256(repr(code(arms, recipe)).encode()).hexdigest()


def differences(history: History, now: Session) -> str:
    """A sentence on the code and versions that differ from the study's last session; empty when none do.

    Raises InputError for another question, which nobody can accept.
    """
    check_question(history, now.plan)
    before = history.sessions[-1]
    # an added arm changes no other
    there = {f for f in before.code if f.startswith((ARMS, *(f"study/{room}/" for room in ROOMS)))}
    there |= {f for f in now.code if not f.startswith(ARMS)}
    changed = sorted(f for f in there if before.code.get(f) != now.code.get(f))
    others = [
        f"{name} {before.versions.get(name, 'unknown')} -> {version}"
        for name, version in now.versions.items()
        if before.versions.get(name) != version
    ]
    return "; ".join(([f"changed code: {', '.join(changed)}"] if changed else []) + others)


def check_data(plan: Plan, card: DataCard) -> None:
    """Raises InputError, naming every difference, when these are not the images that the study began with."""
    old, new = asdict(plan.data), asdict(card)
    # the fingerprint covers those that matter, the rest speaks of files that are no images too, or follows from it
    named = ("spec", "classes", "train", "test", "size", "channels", "fingerprint")
    differing = [
        f"{name} {_short(old[name])} -> {_short(new[name])}" for name in named if old[name] != new[name]
    ]
    if differing:
        raise InputError(
            f"the images of {card.spec} are not those that the study began with ({'; '.join(differing)}): put "
            "them back, or start a new study"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


def _files(arms: Iterable[str]) -> set[Path]:
    """The arms' files and, since they may import it, every other file of their folder whose name one of them contains."""
    home, written = ROOT / ARMS, [parse(arm) for arm in arms]
    there = {file.stem: file for file in home.glob("*.py")}
    families = home / "families"
    there |= {f"{arm.family}/": families / f"{arm.family}.py" for arm in written if arm.family}
    found: set[Path] = {families / "__init__.py"} if any(arm.family for arm in written) else set()
    named = {"__init__", *(f"{arm.family}/" if arm.family else arm.name for arm in written)}
    while new := {there[name] for name in named & there.keys()} - found:
        found |= new
        named |= {name for file in new for name in re.findall(r"\w+", file.read_text(errors="replace"))}
    return found
