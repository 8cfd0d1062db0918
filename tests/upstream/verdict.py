"""Which runs count, what is expected of each, and what an outcome therefore means.

`runs.tsv` lists the runs (format, test) that must pass. `expect.toml` has one table per format, `test = "reason"`, for
those that do not yet, and a table `[absent]`, `format = "reason"`, for formats whose driver does not exist: none of their
runs is tried, and the entry is dead as soon as the driver is listed in the tool's help.
"""

import dataclasses
import pathlib
import re
import tomllib

FORMATS = ("raw", "luks", "qcow", "qcow2", "nbd")

PASS = "pass"
EXPECTED = "expected failure"
REGRESSION = "REGRESSION"
UNEXPECTED = "UNEXPECTED PASS"
UNJUDGED = "not judged"


@dataclasses.dataclass
class Judge:
    """The lists, read and checked."""

    runs: list
    expect: dict
    absent: dict
    dead: list
    file: pathlib.Path

    @classmethod
    def load(cls, folder, real, drivers):
        """Reads the lists; `real` takes those of the real tools, which lack nothing but differ in a few texts."""
        rows = (folder / "runs.tsv").read_text().splitlines()[1:]
        runs = [tuple(row.split("\t")) for row in rows]
        name = "expect-real.toml" if real else "expect.toml"
        expect = tomllib.loads((folder / name).read_text())
        absent = expect.pop("absent", {})
        dead = [f"{name}: [absent] {fmt}: the driver is there" for fmt in absent if fmt in drivers]
        dead += [f"{name}: [absent] {fmt}: no such format" for fmt in absent if fmt not in FORMATS]
        dead += [
            f"{name}: [{fmt}] {test}: no such run"
            for fmt, tests in expect.items()
            for test in tests
            if (fmt, test) not in runs or fmt in absent
        ]
        return cls(runs, expect, absent, dead, folder / name)

    def select(self, formats, tests):
        """The runs to try now: those that count and have a driver, or exactly the tests named."""
        formats = [fmt for fmt in formats or FORMATS if fmt not in self.absent]
        if tests is None:
            return [run for run in self.runs if run[0] in formats]
        return [(fmt, test) for fmt in formats for test in tests.split()]

    def verdict(self, outcome):
        """What this outcome means."""
        run = (outcome.format, outcome.test)
        expected = outcome.test in self.expect.get(outcome.format, {})
        if run not in self.runs:
            return UNJUDGED
        if outcome.status == "pass":
            return UNEXPECTED if expected else PASS
        return EXPECTED if expected else REGRESSION

    def counted(self, image_format):
        """How many runs of a format count."""
        return sum(1 for run in self.runs if run[0] == image_format)

    def prune(self, outcomes):
        """Removes the entries of tests that passed, from the file line by line so that everything else stays as it is."""
        passed = {(outcome.format, outcome.test) for outcome in outcomes if outcome.status == "pass"}
        kept, table = [], ""
        for line in self.file.read_text().splitlines(keepends=True):
            if header := re.match(r"\[([^]]+)\]", line):
                table = header.group(1)
            entry = re.match(r'"?([^"=\s]+)"?\s*=', line)
            if entry and (table, entry.group(1)) in passed:
                self.expect[table].pop(entry.group(1))
            else:
                kept.append(line)
        self.file.write_text("".join(kept))
