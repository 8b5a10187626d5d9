"""How an arm is written: ``[FAMILY/]NAME[@FILE.safetensors][:axis=value+axis=value]``, and its short and safe forms."""

import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from search_spaces import ArmError

LONGEST = 80
"""Characters of an arm's name in a file's name."""
DIGITS = 8
"""Of the SHA-256 of a file of weights, in an arm's name."""
_ARM = re.compile(
    rf"(?:(?P<family>\w+)/)?(?P<name>[\w.-]+)(?:@(?P<weights>.+?\.safetensors|[0-9a-f]{{{DIGITS}}}))?(?::(?P<pins>.+))?"
)
_PIN = re.compile(r"(?P<axis>[A-Za-z_]\w*)=(?P<value>.+)")
_NEXT = re.compile(r"\+(?=[A-Za-z_]\w*=)")
"""The plus before another axis; values such as ``flip+crop`` have their own."""
_UNSAFE = re.compile(r"[^\w.+=@-]")


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """An arm as it is written."""

    name: str
    """A file of this folder, or what the family calls it."""
    family: str = ""
    weights: str = ""
    """The file's path as it was typed; in a plan, the first digits of its SHA-256."""
    pins: tuple[tuple[str, str], ...] = ()
    """Axis and value."""

    def __str__(self) -> str:
        family = f"{self.family}/" if self.family else ""
        weights = f"@{self.weights}" if self.weights else ""
        pins = "+".join(f"{axis}={value}" for axis, value in self.pins)
        return f"{family}{self.name}{weights}{':' if pins else ''}{pins}"

    def with_hash(self, sha256: str) -> "Spelling":
        """As a plan has it, whatever the file is called and wherever it lies."""
        return replace(self, weights=sha256[:DIGITS])


def parse(text: str) -> Spelling:
    """Raises ArmError when the text cannot be an arm."""
    match = _ARM.fullmatch(text)
    if match is None:
        if "@" in text:
            raise ArmError(
                f"{text!r}: weights are read from a file FILE.safetensors, as in resnet50@FILE.safetensors or "
                "resnet50@FILE.safetensors:batch_size=64 (other files, as .pt or .bin, are pickles that could run code)"
            )
        raise ArmError(
            f"no arm {text!r}: write NAME, FAMILY/NAME or NAME:axis=value, as in timm/resnet18 or "
            "resnext50:cardinality=32"
        )
    pins = []
    for part in _NEXT.split(match["pins"] or ""):
        pin = _PIN.fullmatch(part)
        if pin is None and part:
            raise ArmError(f"{text!r}: {part!r} is no axis=value, as in resnext50:cardinality=32+lr=0.1")
        pins += [(pin["axis"], pin["value"])] if pin else []
    axes = [axis for axis, _ in pins]
    if twice := [axis for axis in axes if axes.count(axis) > 1]:
        raise ArmError(f"{text!r} gives {twice[0]} twice: leave out one")
    return Spelling(
        name=match["name"], family=match["family"] or "", weights=match["weights"] or "", pins=tuple(pins)
    )


def in_files(arm: str) -> str:
    """The arm's name as part of a file's name: other than any other arm's of a study, on any system and in any store."""
    safe = re.sub(r"^(\w+)/", r"\1.", arm).replace(":", ".", 1)
    if len(safe) <= LONGEST and not _UNSAFE.search(safe):
        return safe
    return f"{_UNSAFE.sub('.', safe)[: LONGEST - 9]}-{hashlib.sha256(arm.encode()).hexdigest()[:DIGITS]}"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The three most similar names."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.0)
