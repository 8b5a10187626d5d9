"""What the arms are: size, work and speed at the default setting, measured before the study."""

from analysis.report.section import Context, Part, Section, Table


def section(context: Context) -> Section:
    plan = context.evidence.plan
    audits = [plan.audits[arm] for arm in plan.arms]
    rows = (
        ("parameters", *(f"{a.params:,}" for a in audits)),
        ("multiply-accumulates per image", *(f"{a.macs:,}" for a in audits)),
        ("images/s in training", *(f"{a.images_per_second:.0f}" for a in audits)),
        ("images/s in evaluation", *(f"{a.eval_images_per_second:.0f}" for a in audits)),
        ("peak memory, MiB", *(f"{a.peak_bytes / 2**20:.0f}" for a in audits)),
    )
    return Section(
        title="What the arms are", tables=(Table(head=("at the default setting", *plan.arms), rows=rows),)
    )


PART = Part(order=90, build=section)
