"""Going on with a study: only under the same question, on the same data, with the same code."""

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from study.protocol.budget import PlanError
from study.protocol.consistency import check_question, plan_hash
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.question import DataCard
from study.protocol.records import Session, asdict

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "scipy")
ROOT = Path(__file__).parent.parent
ARMS = "search_spaces/"


def session(home: Path, arms: Iterable[str]) -> Session:
    """What this process would write the study of these arms with."""
    return Session(plan=plan_hash(home), code=code(arms), versions=versions(), accepted="")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}


def code(arms: Iterable[str]) -> dict[str, str]:
    """Source file -> SHA-256, of all that trials of these arms run."""
    files = {*(ROOT / "study").rglob("*.py"), *_files(arms)}
    return {str(file.relative_to(ROOT)): _sha256(file) for file in sorted(files)}


def code_hash(arms: Iterable[str]) -> str:
    """SHA-256 over all of ``code``."""
    return hashlib.sha256(repr(code(arms)).encode()).hexdigest()


def differences(history: History, now: Session) -> str:
    """Which code and versions differ from the study's last session; empty when none does.

    Raises PlanError when it is another question: that is never accepted.
    """
    check_question(history, now.plan)
    before = history.sessions[-1]
    there = before.code.keys() | {
        f for f in now.code if not f.startswith(ARMS)
    }  # an added arm changes no other
    changed = sorted(f for f in there if before.code.get(f) != now.code.get(f))
    others = [
        f"{name} {before.versions.get(name, 'unknown')} -> {version}"
        for name, version in now.versions.items()
        if before.versions.get(name) != version
    ]
    return "; ".join(([f"changed code: {', '.join(changed)}"] if changed else []) + others)


def check_data(plan: Plan, card: DataCard) -> None:
    """Raises PlanError, saying what differs, when the data is not what the study began with."""
    old, new = asdict(plan.data), asdict(card)
    del old["note"]  # also of files that are no images; what matters of it is in the fingerprint
    differing = [
        f"{name} {_short(old[name])} -> {_short(new[name])}" for name in old if old[name] != new[name]
    ]
    if differing:
        raise PlanError(
            f"the images of {card.spec} are not those that the study began with ({'; '.join(differing)}): put "
            "them back, or start a new study"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


def _files(arms: Iterable[str]) -> set[Path]:
    """The arms' files and every other one of their folder that one of these has the name of: it may be imported."""
    there = {file.stem: file for file in (ROOT / "search_spaces").glob("*.py")}
    found: set[Path] = set()
    named = {"__init__", *arms}
    while new := {there[name] for name in named & there.keys()} - found:
        found |= new
        named |= {name for file in new for name in re.findall(r"\w+", file.read_text(errors="replace"))}
    return found


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
