"""``load.py`` of an export: how its net is used without this project."""

LOAD = '''\
"""Classify images with this net: python load.py IMAGE_OR_FOLDER...

Needs Python 3.11 and what requirements.txt lists; this folder may lie anywhere. In a program: classify([Path("a.jpg")]).
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # listing.py, reading.py and search_spaces/ lie here

import torch
from listing import candidate, files
from reading import Reading, UnreadableError, read_each
from safetensors.torch import load_file
from search_spaces import ImageSpec, load


def opened():
    """The net, how it reads images, and its classes; ValueError where these files are not what was exported.

    The net is on the CPU, in evaluation mode: it takes pixels / 127.5 - 1, (n, channels, size, size), and gives logits.
    """
    try:
        if not all((HERE / name).is_file() for name in ("config.json", "weights.safetensors")):
            raise ValueError("config.json or weights.safetensors is not here")
        card = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
        reading, images = Reading(**card["reading"]), ImageSpec(**card["images"])
        sizes = (reading.size, reading.channels, len(card["classes"]))
        alike = sizes == (images.size, images.channels, images.classes) and {*map(type, sizes)} == {int} and {*map(type, card["classes"])} == {str}
        if not (alike and reading.fit in ("crop", "pad", "squash") and 0 <= reading.white < 1e12):
            raise ValueError("its images, reading and classes do not fit together")
        made = load(*card["built_by"]).build(card["config"], images)
        made.load_state_dict(load_file(HERE / "weights.safetensors"))
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        raise ValueError(f"{HERE} is no whole export ({said}): export the net again") from error
    return made.eval(), reading, card["classes"]


def classify(files):
    """Yields (file, probability of each class, ""), or (file, None, what is wrong with it)."""
    made, reading, classes = opened()
    for file, pixels in zip(files, read_each(files, reading)):
        if isinstance(pixels, UnreadableError):
            yield file, None, str(pixels)
            continue
        with torch.inference_mode():
            said = made(torch.from_numpy(pixels.copy())[None] / 127.5 - 1).softmax(1)[0]
        yield file, dict(zip(classes, said.tolist())), ""


def files_in(place):
    return [file for file in files(place) if candidate(file)] if place.is_dir() else [place]


def complain(text):
    print("error:", "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:4000], file=sys.stderr)


def main(places):
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    if not places:
        print(__doc__)
        return 2
    bad = 0
    try:
        found = {place: files_in(Path(place)) for place in places}
        for place in (place for place, inside in found.items() if not inside):
            bad += 1
            complain(f"{place}: it holds no images")
        for file, said, wrong in classify([file for inside in found.values() for file in inside]):
            if said is None:
                bad += 1
                complain(f"{file}: {wrong}")
            else:
                best = max(said, key=said.get)
                print(file, best, f"{said[best]:.4f}", sep="\\t")
    except (ValueError, OSError) as error:
        bad += 1
        complain(str(error))
    return 2 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''
