"""Reports in these tests: every figure is drawn and laid out, and only tests marked ``drawn`` save it as SVG and PNG too."""

import pytest

from analysis.report import figures

UNSAVED = {"svg": b"<svg/>", "png": b""}


@pytest.fixture(autouse=True)
def unsaved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving the figures is two thirds of a report's time; a state that cannot be drawn fails before it."""
    if request.node.get_closest_marker("drawn") is None:
        monkeypatch.setattr(figures, "_bytes", lambda _, kind: UNSAVED[kind])
