#!/usr/bin/env python3
"""What the documents show is what is there, and the front page is short."""

import os
import re
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as text:
        return text.read()


def documents():
    found = [name for name in os.listdir(ROOT) if name.endswith(".md")]
    for folder, _, files in os.walk(os.path.join(ROOT, "docs")):
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in files
                  if name.endswith(".md")]
    return sorted(found)


class Documents(unittest.TestCase):
    def test_the_page_on_the_library_shows_the_example_that_is_built(self):
        program = re.search(r"```cpp\n(.*?)```", read("docs/library.md"), re.DOTALL).group(1)
        self.assertEqual(program, read("examples/ddp_threads.cpp"))

    def test_the_readme_is_short(self):
        lines = read("README.md").split("\n")
        self.assertLess(len(lines), 150)
        self.assertEqual([line for line in lines if len(line) > 100], [])

    def test_links_lead_somewhere(self):
        for document in documents():
            prose = re.sub(r"```.*?```", "", read(document), flags=re.DOTALL)
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
                if "://" not in target:
                    with self.subTest(document=document, target=target):
                        self.assertTrue(os.path.exists(os.path.join(ROOT, os.path.dirname(document),
                                                                    target)))


if __name__ == "__main__":
    unittest.main()
