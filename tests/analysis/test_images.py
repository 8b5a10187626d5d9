"""The section on the images: what each class has and what was left out, from the plan alone."""

import json
from pathlib import Path

from support.synthetic import write_run

from analysis.__main__ import main
from analysis.report import build


def test_the_report_shows_what_each_class_has_and_warns_of_near_copies(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    plan = run / "plan.json"
    body = json.loads(plan.read_text())
    count = len(body["data"]["classes"])
    body["data"] |= {
        "train_counts": [7000, *[100] * (count - 1)],
        "test_counts": [2000 - 10 * (count - 1), *[10] * (count - 1)],
        "left_out": [{"label": 1, "folder": "train/<b>", "kind": "broken (.jpg)", "count": 3}],
        "near": 12,
        "fit": "crop",
        "cut": 0.25,
    }
    plan.write_text(json.dumps(body))
    build.write(run)
    report = (run / "report.md").read_text()
    assert "The images" in report
    assert "7000" in report[report.index("The images") :]
    page = (run / "report.html").read_text()
    assert "3 broken (.jpg) in train/&lt;b&gt;" in page
    assert "Guessing the most frequent class, class 0, is right for" in page
    warnings = json.loads((run / "verdict.json").read_text())["warnings"]
    assert any(
        warning.startswith("12 of the 2000 test images (0.60 %) look like a training image")
        for warning in warnings
    )


def test_counts_that_do_not_fit_the_classes_are_no_traceback(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    plan = run / "plan.json"
    body = json.loads(plan.read_text())
    left = [{"label": 10**6, "folder": "", "kind": "", "count": 1}]
    for damage in ({"train_counts": [1]}, {"test_counts": [1, 2]}, {"left_out": left}):
        plan.write_text(json.dumps(body | {"data": body["data"] | damage}))
        assert main([str(run)]) == 2
