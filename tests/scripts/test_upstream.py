"""tests/upstream judges an outcome by the lists alone."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "upstream"))

import runner  # noqa: E402
import verdict  # noqa: E402


def judge(expect, drivers=("raw",)):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "runs.tsv").write_text("format\ttest\nraw\t001\nraw\t002\nqcow\t001\n")
        (folder / "expect.toml").write_text(expect)
        return verdict.Judge.load(folder, real=False, drivers=list(drivers))


def outcome(test, status):
    return runner.Outcome("raw", test, status, 0.1)


class Verdicts(unittest.TestCase):
    def test_a_pass_counts_and_everything_else_is_a_regression(self):
        lists = judge("")
        self.assertEqual(lists.verdict(outcome("001", "pass")), verdict.PASS)
        for status in ("fail", "notrun", "timeout"):
            self.assertEqual(lists.verdict(outcome("001", status)), verdict.REGRESSION)

    def test_an_expected_failure_is_fine_and_its_pass_is_not(self):
        lists = judge('[raw]\n002 = "why"\n')
        self.assertEqual(lists.verdict(outcome("002", "notrun")), verdict.EXPECTED)
        self.assertEqual(lists.verdict(outcome("002", "pass")), verdict.UNEXPECTED)

    def test_a_test_outside_the_list_is_not_judged(self):
        self.assertEqual(judge("").verdict(outcome("160", "fail")), verdict.UNJUDGED)

    def test_an_entry_for_no_run_is_dead(self):
        self.assertEqual(judge('[raw]\n003 = "why"\n').dead, ["expect.toml: [raw] 003: no such run"])

    def test_an_absent_format_is_not_tried_and_its_entry_dies_when_the_driver_appears(self):
        lists = judge('[absent]\nqcow = "not built"\n')
        self.assertEqual(lists.select(None, None), [("raw", "001"), ("raw", "002")])
        self.assertEqual(lists.dead, [])
        self.assertEqual(len(judge('[absent]\nqcow = "not built"\n', ["raw", "qcow"]).dead), 1)

    def test_only_named_tests_and_formats_are_selected(self):
        self.assertEqual(judge("").select(["qcow"], None), [("qcow", "001")])
        self.assertEqual(judge("").select(["raw"], "002 160"), [("raw", "002"), ("raw", "160")])


class Prune(unittest.TestCase):
    def test_only_entries_of_tests_that_passed_are_removed(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "runs.tsv").write_text("format\ttest\nraw\t001\nraw\t002\n")
            (folder / "expect.toml").write_text('# why\n[raw]\n001 = "a"\n"002" = "b"\n')
            lists = verdict.Judge.load(folder, real=False, drivers=[])
            lists.prune([outcome("001", "fail"), outcome("002", "pass")])
            self.assertEqual((folder / "expect.toml").read_text(), '# why\n[raw]\n001 = "a"\n')
            self.assertEqual(lists.verdict(outcome("002", "pass")), verdict.PASS)


class Differences(unittest.TestCase):
    def test_the_first_unexpected_line_is_named_before_a_missing_one(self):
        self.assertEqual(runner.first_difference("--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n"), "+new")

    def test_a_missing_line_is_named_when_nothing_was_added(self):
        self.assertEqual(runner.first_difference("--- a\n+++ b\n-old\n"), "-old")


if __name__ == "__main__":
    unittest.main()
