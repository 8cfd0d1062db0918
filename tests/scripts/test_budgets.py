"""scripts/budgets reads Rust as the compiler does where it matters for counting."""

import importlib.machinery
import importlib.util
import pathlib
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(name):
    """Loads a script, which has no `.py`, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    import sys

    sys.modules[name] = module
    loader.exec_module(module)
    return module


budgets = load("budgets")


def lengths(text):
    return {function.name: function.length for function in budgets.measure("x/src/lib.rs", text).functions}


class Lengths(unittest.TestCase):
    def test_signature_comments_blank_lines_and_braces_do_not_count(self):
        self.assertEqual(lengths("fn a(\n  x: u8,\n) -> u8 {\n  // why\n\n  let y = x;\n  y\n}\n"), {"a": 2})

    def test_a_body_on_one_line_and_an_empty_body_count_one(self):
        self.assertEqual(lengths("fn a() -> u8 { 1 }\nfn b() {}\n"), {"a": 1, "b": 1})

    def test_braces_in_strings_characters_and_comments_are_not_braces(self):
        text = 'fn a<\'q>(s: &\'q str) {\n  f("}");\n  g(\'}\', b\'\\\'\');\n  /* } /* } */ } */\n  h(r#"}"}"#);\n}\nfn b() {}\n'
        self.assertEqual(lengths(text), {"a": 3, "b": 1})

    def test_a_nested_function_counts_for_itself_only(self):
        self.assertEqual(lengths("fn a() {\n  fn b() {\n    x();\n    y();\n  }\n  b();\n}\n"), {"a": 1, "b": 2})

    def test_closures_function_types_and_declarations_are_no_functions(self):
        text = "trait T { fn declared(&self); }\nfn a(f: fn(u8) -> u8) {\n  let c = |x: u8| {\n    f(x)\n  };\n}\n"
        self.assertEqual(lengths(text), {"a": 3})

    def test_arrays_in_a_signature_do_not_end_it(self):
        self.assertEqual(lengths("fn a(x: [u8; 4]) -> [u8; 4] {\n  x\n}\n"), {"a": 1})

    def test_a_string_over_several_lines_counts_each_of_them(self):
        self.assertEqual(lengths('fn a() {\n  f("1\n2\n3");\n}\n'), {"a": 3})


class Tests(unittest.TestCase):
    def test_test_modules_count_neither_as_functions_nor_as_lines(self):
        text = "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { x.unwrap() }\n}\n"
        measured = budgets.measure("x/src/lib.rs", text)
        self.assertEqual([f.name for f in measured.functions], ["a"])
        self.assertEqual(measured.lines, 2)
        self.assertEqual(measured.unwrap_lines, [])

    def test_code_that_is_compiled_only_outside_tests_counts(self):
        self.assertEqual(lengths("#[cfg(not(test))]\nfn a() {}\n"), {"a": 1})

    def test_a_test_module_in_another_file_is_found(self):
        measured = [budgets.measure("x/src/lib.rs", "#[cfg(test)]\nmod oracle;\n")]
        self.assertIn("x/src/oracle.rs", budgets.test_files(measured))


class Rules(unittest.TestCase):
    def test_unwrap_outside_tests_is_found_with_its_line(self):
        self.assertEqual(budgets.measure("x/src/a.rs", "fn a() {\n  b.unwrap();\n}\n").unwrap_lines, [2])

    def test_unwrap_or_and_the_word_in_a_string_are_no_unwrap(self):
        text = 'fn a() { b.unwrap_or(1); c(".unwrap()"); }\n'
        self.assertEqual(budgets.measure("x/src/a.rs", text).unwrap_lines, [])

    def test_the_purpose_must_come_before_any_code(self):
        self.assertTrue(budgets.measure("x/src/a.rs", "// licence\n//! Purpose.\nfn a() {}\n").has_purpose)
        self.assertFalse(budgets.measure("x/src/a.rs", "fn a() {}\n//! late\n").has_purpose)

    def test_unsafe_is_found_and_the_lint_of_that_name_is_not(self):
        text = "#![forbid(unsafe_code)]\nfn a() {\n  unsafe { b() }\n}\n"
        measured = budgets.measure("x/src/lib.rs", text)
        self.assertEqual(measured.unsafe_lines, [3])
        self.assertEqual(measured.forbids, {"forbid"})
        self.assertEqual([x for x in budgets.offenders([measured], budgets.Exceptions(pathlib.Path("/none"))) if "unsafe" in x],
                         ["x/src/lib.rs:3: unsafe is allowed only in block/src/sys.rs"])  # fmt: skip

    def test_an_exception_excuses_and_a_dead_one_is_an_offender(self):
        excused = budgets.Exceptions(pathlib.Path("/none"))
        excused.table = {"function": {"x/src/a.rs::long": "a table", "x/src/a.rs::gone": "was a table"}}
        long = "//! x\nfn long() {\n" + "  a();\n" * 101 + "}\n"
        found = list(budgets.offenders([budgets.measure("x/src/a.rs", long)], excused))
        self.assertEqual(len(found), 1)
        self.assertIn("gone excuses nothing", found[0])


if __name__ == "__main__":
    unittest.main()
