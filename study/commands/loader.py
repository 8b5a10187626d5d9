"""``load.py`` of an export: how its net is used without this project."""

LOAD = '''\
"""Classify images with this net: python load.py IMAGE_OR_FOLDER...

Needs Python 3.11 and what requirements.txt lists; this folder may lie anywhere. In a program: classify([Path("a.jpg")]).
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # reading.py and search_spaces/ lie here

import torch
from reading import Reading, UnreadableError, read_each
from safetensors.torch import load_file
from search_spaces import ImageSpec, load

CARD = json.loads((HERE / "config.json").read_text(encoding="utf-8"))


def net():
    """On the CPU, in evaluation mode: it takes pixels / 127.5 - 1, (n, channels, size, size), and gives logits."""
    made = load(*CARD["built_by"]).build(CARD["config"], ImageSpec(**CARD["images"]))
    made.load_state_dict(load_file(HERE / "weights.safetensors"))
    return made.eval()


def classify(files):
    """Yields (file, probability of each class, ""), or (file, None, what is wrong with it)."""
    made = net()
    for file, pixels in zip(files, read_each(files, Reading(**CARD["reading"]))):
        if isinstance(pixels, UnreadableError):
            yield file, None, str(pixels)
            continue
        with torch.inference_mode():
            said = made(torch.from_numpy(pixels.copy())[None] / 127.5 - 1).softmax(1)[0]
        yield file, dict(zip(CARD["classes"], said.tolist())), ""


def files_in(place):
    inside = sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith("."))
    return inside if place.is_dir() else [place]


def main(places):
    if not places:
        print(__doc__)
        return 2
    bad = 0
    for file, said, wrong in classify([file for place in places for file in files_in(Path(place))]):
        if said is None:
            bad += 1
            print(f"error: {file}: {wrong}", file=sys.stderr)
        else:
            best = max(said, key=said.get)
            print(file, best, f"{said[best]:.4f}", sep="\\t")
    return 2 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''
