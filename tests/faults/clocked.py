"""``python clocked.py FLAGS``: study/run.py of the current folder on a clock that counts trained epochs, and without measuring.

Only the fault can then make a difference. ``python clocked.py -m PACKAGE ...`` runs a command as it is. Both count the steps of
their writes if the campaign asks for it (``inside/writes.py``).
"""

import dataclasses
import runpy
import sys
from pathlib import Path
from typing import Any

sys.path[:1] = ["", str(Path(__file__).parents[1])]


def on_a_clock() -> None:
    from study.protocol.records import Epoch
    from study.scheduling import schedule

    now, of = [0.0], schedule.Schedule
    report, resumed, init = of.report, of.resumed, of.__init__

    def counted(self: schedule.Schedule, epoch: Epoch) -> bool:
        now[0] += 1.0
        return report(self, dataclasses.replace(epoch, train_seconds=0.9, eval_seconds=0.1))

    new: dict[str, Any] = {
        "__init__": lambda self, *given: init(self, *given, clock=lambda: now[0]),
        "report": counted,
        "resumed": lambda self, trial, epoch, _: resumed(self, trial, epoch, 0.0),
    }
    for name, function in new.items():
        setattr(of, name, function)


def without_measuring() -> None:
    from faults.ground import surveyed
    from study import planning
    from study.execution import profile

    profile.survey = surveyed
    planning.quick_check = lambda *_: lambda: None


if __name__ == "__main__":
    from faults.inside import writes

    writes.watch("driver")
    if sys.argv[1] == "-m":
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    on_a_clock()
    if "--arms" in sys.argv:
        without_measuring()
    import study.run

    sys.exit(study.run.main(sys.argv[1:]))
