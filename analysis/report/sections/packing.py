"""Packing: how many trials ran side by side, and why."""

from analysis.report.section import Context, Part, Section, Table


def section(context: Context) -> Section | None:
    """None where nothing was measured for it."""
    plan = context.evidence.plan
    if not (plan.packing or plan.packing_notes):
        return None
    machine = plan.machine
    unit = f"{machine.resource.upper()}{'s' if machine.fraction > 1 else ''}"
    rows = tuple(
        (
            row.arm,
            str(row.trials),
            f"{row.fraction:g}",
            str(row.threads),
            str(row.batch_size),
            "channels_last" if row.channels_last else "contiguous",
            f"{row.images_per_second:.0f}",
            f"{row.peak_bytes / 2**20:.0f}",
        )
        for row in plan.packing
    )
    head = (
        "arm", "trials side by side", "each on", "threads", "batch size", "layout", "images/s of all",
        "MiB of the largest",
    )  # fmt: skip
    return Section(
        title="Packing",
        text=(
            (
                f"All arms alike: {machine.slots} trials side by side, each on {machine.fraction:g} {unit} with "
                f"{machine.threads} {'thread' if machine.threads == 1 else 'threads'}. {' '.join(plan.packing_notes)}"
            ),
        ),
        tables=(Table(head=head, rows=rows),) if rows else (),
    )


PART = Part(order=170, build=section)
