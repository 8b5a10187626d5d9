"""``python -m analysis runs/ID``: build a study's report again from what it wrote down.

Reads plan.json, ledger.jsonl and predictions/, writes the same bytes as the study did, and prints the
verdict and the report's path. Exit codes: 0 done, 2 bad input.
"""
# ruff: noqa: T201 - a command speaks to its user

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Build the report of a study again from its records. Writes report.html, report.md, "
        "verdict.json and figures/ into the study's folder.",
        epilog="example: python -m analysis runs/2026-11-22",
    )
    parser.add_argument("run", type=Path, help="the folder of a study, with plan.json and ledger.jsonl")
    run = parser.parse_args(arguments).run

    from analysis.evidence import EvidenceError  # pandas and matplotlib only once the arguments are valid
    from analysis.report import write

    try:
        report = write(run)
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.headline)
    print(report.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
