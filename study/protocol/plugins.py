"""Parts that are found by their file: arms have a folder, and so have data sources, loggers and report sections."""

import importlib
import pkgutil
from types import ModuleType


def modules(package: str) -> dict[str, ModuleType]:
    """The modules of ``package`` by name, imported, in alphabetical order; a leading ``_`` marks a helper.

    A new file is a new part, and nothing else has to name it.
    """
    folder = importlib.import_module(package).__path__
    names = sorted(found.name for found in pkgutil.iter_modules(folder) if not found.name.startswith("_"))
    return {name: importlib.import_module(f"{package}.{name}") for name in names}
