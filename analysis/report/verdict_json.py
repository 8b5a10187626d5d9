"""``verdict.json``: the report for programs. Fractions and seconds, stable keys; unknown values are null.

Means (``accuracies``) and differences are scores on ``metric``, where more is better: a loss is negative.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from analysis import scores, summary
from analysis.report.section import Context, plain
from analysis.report.sections import health
from analysis.results import in_hand
from study.protocol.accounting import budget
from study.protocol.records import PHASES

FORMAT = 3
"""Raised when a key changes its meaning."""


def encoded(context: Context, facts: Mapping[str, Any]) -> bytes:
    """``facts``: those of the sections, by key."""
    body = _body(context) | {name: plain(own) for name, own in facts.items()}
    return json.dumps(body, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _body(context: Context) -> dict[str, Any]:
    evidence, found = context.evidence, context.found
    plan, history = evidence.plan, evidence.history
    nets = [
        {k: x for k, x in asdict(v).items() if k != "metric"}
        | ({} if v.has_chances else dict.fromkeys(("p_first", "p_tie", "p_second")))
        for v in found.nets
    ]
    hands = {arm: in_hand(history, arm, evidence.look) for arm in plan.arms}
    return {
        "format": FORMAT,
        "headline": found.headline,
        "verdict": found.answers[0].word if len(found.answers) == 1 else None,
        "answer": [plain(asdict(a)) for a in found.answers],
        "nets": plain(nets),
        "look": evidence.look,
        "scope": found.scope,
        "metric": plan.metric,
        "rope": plan.rope,
        "arms": list(plan.arms),
        "accuracies": plain(scores.accuracies(evidence).to_dict("records")),
        "failure_rates": {arm: asdict(rate) for arm, rate in summary.failure_rates(evidence).items()},
        "gains": {c.arm: asdict(c.estimate) for c in found.gains},
        "defaults": [asdict(c.estimate) | {"label": c.short} for c in found.defaults],
        "default_confirmed": list(found.unchanged),
        "settings": {arm: choice.config for arm, choice in hands.items() if choice},
        "spend_seconds": {
            arm: {str(phase): history.spent(arm, phase) for phase in PHASES if history.spent(arm, phase) > 0}
            for arm in plan.arms
        },
        "budget_seconds": budget(plan, history).seconds,
        "manifests": [m.sha256 for m in history.manifests],
        "test_opened": len(history.opened),
        "warnings": health.warnings(evidence),
        "command": plan.command,
        "versions": plan.versions,
        "code": plan.code,
    }
