"""What the run prints and saves: a line per test, a table per format, results.json, and the exit code."""

import collections
import dataclasses
import json

import verdict

COLUMNS = (verdict.PASS, verdict.EXPECTED, verdict.REGRESSION, verdict.UNEXPECTED, verdict.UNJUDGED)


def not_available(error, skip):
    """Says why the suite could not be had; only a hand-set UPSTREAM=skip makes that no failure."""
    print(f"upstream: {error}")
    if skip:
        print("upstream: NOT RUN (UPSTREAM=skip)")
        return 0
    print("upstream: the suite could not be had; UPSTREAM=skip accepts that")
    return 1


def progress(outcome):
    """One line for each test as it ends."""
    reason = f"  {outcome.reason}" if outcome.reason else ""
    print(f"{outcome.format:6} {outcome.test:32} {outcome.status:8} {outcome.seconds:6.1f} s{reason}", flush=True)


def finish(judge, outcomes, results, partial):
    """Prints the table and what is wrong, saves the results, and returns the exit code."""
    judged = [(outcome, judge.verdict(outcome)) for outcome in outcomes]
    save(judge, judged, results, partial)
    print()
    table(judge, judged)
    wrong = [(outcome, kind) for outcome, kind in judged if kind in (verdict.REGRESSION, verdict.UNEXPECTED)]
    for outcome, kind in wrong:
        print(f"{kind}: {outcome.format} {outcome.test}: {outcome.reason} {outcome.log}".rstrip(": "))
    for entry in judge.dead:
        print(f"DEAD ENTRY: {entry}")
    bad = bool(wrong or judge.dead or not outcomes)
    print(f"upstream: {'FAILED' if bad else 'as expected'}; results in {results}")
    return int(bad)


def table(judge, judged):
    """Counts per format, and the formats that were not tried."""
    counts = collections.Counter((outcome.format, kind) for outcome, kind in judged)
    seconds = collections.Counter()
    for outcome, _ in judged:
        seconds[outcome.format] += outcome.seconds
    shown = [kind for kind in COLUMNS if kind != verdict.UNJUDGED or any(key[1] == kind for key in counts)]
    widths = [max(len(kind), 6) for kind in shown]
    print(f"{'format':8}{'runs':>6}  " + "  ".join(f"{kind:>{width}}" for kind, width in zip(shown, widths)) + f"{'s':>8}")
    for fmt in verdict.FORMATS:
        if fmt in judge.absent:
            print(f"{fmt:8}{judge.counted(fmt):6}  not tried: {judge.absent[fmt]}")
        elif seconds[fmt] or any(key[0] == fmt for key in counts):
            cells = "  ".join(f"{counts[fmt, kind]:>{width}}" for kind, width in zip(shown, widths))
            print(f"{fmt:8}{judge.counted(fmt):6}  {cells}{seconds[fmt]:8.0f}")


def save(judge, judged, results, partial):
    """Writes results.json: every run with its status and verdict."""
    runs = [dataclasses.asdict(outcome) | {"verdict": kind} for outcome, kind in judged]
    text = json.dumps({"partial": partial, "absent": judge.absent, "dead": judge.dead, "runs": runs}, indent=1)
    (results / "results.json").write_text(text + "\n")
