#!/usr/bin/env python3
"""Sources and scripts have lines of at most 100 columns; documents_test.py holds the pages to it.

The text of a raw string in a C++ test does not count: it is a file's content, kept as it is.
"""

import os
import re
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
COLUMNS = 100
SOURCE = re.compile(r".*\.(h|cpp|cu|proto|in|py|sh|cmake|yaml|toml)$|(.*/)?CMakeLists\.txt$")
NOT_OURS = {"build", "runs", "data"}  # what programs of the project write
RAW_STRING = re.compile(r'R"(\w*)\((.*?)\)\1"', re.DOTALL)


def sources(root):
    """The files to look at, as paths from `root`."""
    for folder, folders, files in os.walk(root):
        if os.path.samefile(folder, root):
            folders[:] = [name for name in folders if name not in NOT_OURS]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.relpath(os.path.join(folder, name), root)
            if SOURCE.match(path) or os.path.dirname(path) == "scripts":
                yield path


def long_lines(path, text):
    """FILE:LINE: LENGTH of the lines that are too long."""
    if path.startswith("tests/"):
        text = RAW_STRING.sub(lambda raw: 'R"' + "\n" * raw.group(2).count("\n") + '"', text)
    return [f"{path}:{number}: {len(line)} columns"
            for number, line in enumerate(text.split("\n"), 1) if len(line) > COLUMNS]


class Columns(unittest.TestCase):
    def test_lines_have_at_most_100_columns(self):
        found = []
        for path in sources(ROOT):
            with open(os.path.join(ROOT, path), encoding="utf-8") as text:
                found += long_lines(path, text.read())
        self.assertEqual(found, [])

    def test_a_long_line_is_found(self):
        self.assertEqual(long_lines("core/a.cpp", "int a;\n" + "x" * 101),
                         ["core/a.cpp:2: 101 columns"])
        self.assertEqual(long_lines("core/a.cpp", "x" * 100), [])

    def test_raw_strings_of_tests_do_not_count(self):
        text = 'f(R"x(' + "y" * 120 + "\n" + "y" * 120 + ')x");\n'
        self.assertEqual(long_lines("tests/a_test.cpp", text), [])
        self.assertEqual(len(long_lines("core/a.cpp", text)), 2)
        self.assertEqual(long_lines("tests/a_test.cpp", text + "z" * 101),
                         ["tests/a_test.cpp:3: 101 columns"])

    def test_every_kind_of_source_is_looked_at(self):
        found = set(sources(ROOT))
        for path in ["core/base/error.h", "core/base/error.cpp", "scripts/test",
                     "scripts/common.sh", "cmake/LockstepTargets.cmake", "CMakeLists.txt",
                     "core/CMakeLists.txt", "core/base/build_info.h.in", "tests/e2e/lib.sh",
                     "tests/scripts/columns_test.py", "launcher/proto/rendezvous.proto"]:
            self.assertIn(path, found)


if __name__ == "__main__":
    unittest.main()
