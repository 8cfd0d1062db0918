"""scripts/rules judges licence expressions and text as it says."""

import unittest

from test_budgets import load

rules = load("rules")
ALLOWED = {"MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"}


class Licences(unittest.TestCase):
    def test_or_needs_one_and_and_needs_all(self):
        self.assertTrue(rules.permitted("GPL-3.0 OR MIT", ALLOWED))
        self.assertFalse(rules.permitted("GPL-3.0 AND MIT", ALLOWED))
        self.assertTrue(rules.permitted("(MIT OR Apache-2.0) AND Unicode-3.0", ALLOWED))
        self.assertFalse(rules.permitted("(MIT OR Apache-2.0) AND OpenSSL", ALLOWED))

    def test_an_exception_is_part_of_the_licence(self):
        self.assertTrue(rules.permitted("Apache-2.0 WITH LLVM-exception OR GPL-2.0", ALLOWED))
        self.assertFalse(rules.permitted("MIT WITH Classpath-exception", ALLOWED))

    def test_the_old_slash_means_or(self):
        self.assertTrue(rules.permitted("GPL-3.0/MIT", ALLOWED))

    def test_no_licence_or_a_broken_expression_is_refused(self):
        self.assertFalse(rules.permitted(None, ALLOWED))
        self.assertFalse(rules.permitted("(MIT", ALLOWED))


class Text(unittest.TestCase):
    def test_folders_of_one_machine_are_found(self):
        self.assertTrue(rules.FORBIDDEN_TEXT.search("see /home/" + "alice/x"))
        self.assertTrue(rules.FORBIDDEN_TEXT.search('"/root/' + 'x"'))

    def test_system_folders_and_relative_paths_are_not(self):
        for text in ("/usr/share/doc", "/dev/shm", "tests/work/x", "${HOME}/root/x", "a/home/b"):
            self.assertFalse(rules.FORBIDDEN_TEXT.search(text), text)

    def test_registry_hosts_are_found(self):
        self.assertTrue(rules.FORBIDDEN_TEXT.search("http://deb." + "debian.org/debian"))
        self.assertTrue(rules.FORBIDDEN_TEXT.search("https://static." + "crates.io/x"))


if __name__ == "__main__":
    unittest.main()
