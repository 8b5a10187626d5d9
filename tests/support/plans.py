"""A plan and an audit with fixed numbers in place of measurements."""

import dataclasses

from study.protocol.budget import Budget
from study.protocol.plan import Plan
from study.protocol.question import Audit, DataCard, Machine

AUDIT = Audit(
    params=1000, macs=10_000, images_per_second=1000.0, eval_images_per_second=4000.0, peak_bytes=2**30,
    startup_seconds=5.0,
)  # fmt: skip


PLAN = Plan(
    arms=("a", "b"),
    data=DataCard(
        spec="digits", classes=("x", "y"), train=1000, test=200, size=8, channels=1, fingerprint="0" * 64
    ),
    budget=Budget.parse("10cpu-minutes"),
    epochs=5,
    rope=0.005,
    seed=0,
    train_fraction=1.0,
    widen=(),
    spaces={},
    batch_sizes=(32, 64),
    audits={"a": AUDIT, "b": dataclasses.replace(AUDIT, images_per_second=800.0)},
    machine=Machine(resource="cpu", slots=2, fraction=1.0, threads=1, name="CPU x 2"),
    probe_cost={"a": 10.0, "b": 11.0},
    command="python study/run.py",
    versions={"python": "3.11"},
    code="0" * 64,
)


def one_core(data: DataCard) -> Plan:
    """A plan of one arm on one core."""
    machine = Machine(resource="cpu", slots=1, fraction=1.0, threads=1, name="one core")
    return dataclasses.replace(
        PLAN,
        arms=("tiny_resnet",),
        data=data,
        machine=machine,
        audits={"tiny_resnet": AUDIT},
        probe_cost={"tiny_resnet": 1.0},
    )
