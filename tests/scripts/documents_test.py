#!/usr/bin/env python3
"""The pages have short lines, their links lead somewhere, and what they show is what is there."""

import itertools
import os
import re
import sys
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
COLUMNS, ROW_COLUMNS = 100, 200
# A page whose table is the program's own text, compared by tests/train/config/config_test.cpp.
GENERATED_ROWS = {"docs/configuration.md"}
TOP_FOLDERS = {"bench", "checkpoint", "cli", "cmake", "comm", "configs", "core", "ddp", "docs",
               "examples", "fsdp", "launcher", "python", "scripts", "tests", "train"}


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as text:
        return text.read()


def documents():
    found = [name for name in os.listdir(ROOT) if name.endswith(".md")]
    for folder, _, files in os.walk(os.path.join(ROOT, "docs")):
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in files
                  if name.endswith(".md")]
    return sorted(found)


def prose(text):
    """The page without its code blocks; lines keep their numbers."""
    return re.sub(r"^```.*?^```", lambda block: "\n" * block.group().count("\n"), text,
                  flags=re.DOTALL | re.MULTILINE)


def long_lines(text, row_columns=ROW_COLUMNS):
    """(line number, columns) of the lines that are too long. A table row may be longer."""
    rows = {n for n, line in enumerate(prose(text).split("\n"), 1) if line.startswith("|")}
    return [(n, len(line)) for n, line in enumerate(text.split("\n"), 1)
            if len(line) > (row_columns if n in rows else COLUMNS)]


def anchors(text):
    """The anchors of a page's headings, made as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        numbered = itertools.chain([slug], (f"{slug}-{n}" for n in itertools.count(1)))
        found.add(next(name for name in numbered if name not in found))
    return found


def broken_links(document, text):
    """The targets of a page's links that are no file of the project or no heading of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(document), path)) if path else document
        if not os.path.exists(os.path.join(ROOT, path)):
            broken.append(target)
        elif anchor and anchor not in anchors(text if path == document else read(path)):
            broken.append(target)
    return broken


def spelled_out(path):
    """a/{b,c}.h as a/b.h and a/c.h."""
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [one for name in match.group(1).split(",")
            for one in spelled_out(path[:match.start()] + name + path[match.end():])]


def missing_paths(text):
    """The paths in backticks that begin with a folder of the project and do not exist."""
    missing = []
    for words in re.findall(r"`([^`\n]+)`", prose(text)):
        for word in words.split():
            if word.split("/")[0] not in TOP_FOLDERS or "/" not in word:
                continue
            if re.search(r"[^\w./{},-]|[A-Z]{2}", word):
                continue  # a pattern, or a name to be put in
            missing += [path for path in spelled_out(word.rstrip(".,"))
                        if not any(os.path.exists(os.path.join(ROOT, path + end))
                                   for end in ["", ".in"])]
    return missing


def headers():
    """The paths of all headers and sources, and of what CMake makes a header of."""
    return ["/" + os.path.relpath(os.path.join(folder, name), ROOT).removesuffix(".in")
            for top in TOP_FOLDERS for folder, _, files in os.walk(os.path.join(ROOT, top))
            for name in files if re.search(r"\.(h|cpp)(\.in)?$", name)]


def missing_headers(text, known):
    """The headers and sources in backticks, with or without folders, that do not exist."""
    return [word for word in re.findall(r"`([\w/]+\.(?:h|cpp))`", prose(text))
            if not any(path.endswith("/" + word) for path in known)]


def mapped_folders(text):
    """The folders that the first code block of a page shows; indented ones lie in the one above."""
    found, top = set(), None
    for line in re.search(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE).group(1).split("\n"):
        names = re.match(r" *([\w/]+/(?: [\w/]+/)*)(?:  |$)", line)
        if names and line.startswith(" "):
            found |= {f"{top}/{name.rstrip('/')}" for name in names.group(1).split()}
        elif names:
            top = names.group(1).split()[0].rstrip("/")
            found.add(top)
    return found


def source_folders():
    """The folders of the library with sources, at most two deep."""
    tops = TOP_FOLDERS - {"bench", "cmake", "configs", "docs", "examples", "scripts", "tests"}
    return {"/".join(os.path.relpath(folder, ROOT).split("/")[:2])
            for top in tops for folder, _, files in os.walk(os.path.join(ROOT, top))
            if any(re.search(r"\.(h|cpp|proto)$", name) for name in files)}


class Documents(unittest.TestCase):
    maxDiff = None

    def test_the_page_on_the_library_shows_the_example_that_is_built(self):
        program = re.search(r"```cpp\n(.*?)```", read("docs/library.md"), re.DOTALL).group(1)
        self.assertEqual(program, read("examples/ddp_threads.cpp"))

    def test_the_readme_is_short(self):
        self.assertLess(len(read("README.md").split("\n")), 150)

    def test_lines_are_short(self):
        found = []
        for document in documents():
            row_columns = sys.maxsize if document in GENERATED_ROWS else ROW_COLUMNS
            found += [f"{document}:{number}: {columns} columns"
                      for number, columns in long_lines(read(document), row_columns)]
        self.assertEqual(found, [])

    def test_links_lead_somewhere(self):
        found = [f"{document}: {target}" for document in documents()
                 for target in broken_links(document, read(document))]
        self.assertEqual(found, [])

    def test_paths_exist(self):
        found = [f"{document}: {path}" for document in documents()
                 for path in missing_paths(read(document))]
        self.assertEqual(found, [])

    def test_the_map_shows_the_folders_of_today(self):
        shown = mapped_folders(read("docs/architecture.md"))
        self.assertEqual(source_folders() - shown, set())
        gone = [path for path in shown if not os.path.isdir(os.path.join(ROOT, path))]
        self.assertEqual(gone, [])

    def test_headers_exist(self):
        known = headers()
        found = [f"{document}: {header}" for document in documents()
                 for header in missing_headers(read(document), known)]
        self.assertEqual(found, [])

    def test_every_page_is_listed(self):
        listed = read("docs/README.md")
        pages = [os.path.relpath(document, "docs") for document in documents()
                 if document.startswith("docs/") and document != "docs/README.md"]
        self.assertEqual([page for page in pages if f"({page})" not in listed], [])


class WrongPages(unittest.TestCase):
    """The checks find what they are there for."""

    def test_long_lines(self):
        text = "\n".join(["a" * 100, "b" * 101, "|" + "c" * 199, "|" + "d" * 200,
                          "```", "|" + "e" * 100, "```"])
        self.assertEqual(long_lines(text), [(2, 101), (4, 201), (6, 101)])

    def test_links(self):
        text = "# One `two`, three\n[a](gone.md) [b](#one-two-three) [c](#four)\n"
        text += "[d](core.md#gone) [e](../README.md) [f](https://x.y/z)\n"
        text += "```\n[g](gone.md)\n```\n"
        self.assertEqual(broken_links("docs/train.md", text),
                         ["gone.md", "#four", "core.md#gone"])

    def test_the_map(self):
        text = "# A\n```\na/      about a\n  b/ c/   more/less\n\nd/e/    about e\n```\n"
        self.assertEqual(mapped_folders(text), {"a", "a/b", "a/c", "d/e"})

    def test_headers(self):
        text = "`error.h` `base/error.h` `gone.h` `rror.h` `build_info.h` `device/error.h`"
        self.assertEqual(missing_headers(text, headers()), ["gone.h", "rror.h", "device/error.h"])

    def test_a_heading_that_stands_twice(self):
        self.assertEqual(anchors("# A b\n## A b\n"), {"a-b", "a-b-1"})

    def test_paths(self):
        text = "`core/base/error.h` `core/gone.h` `core/base/{error,nowhere}.cpp`"
        text += " `scripts/test -R x` `comm/NAME` `core/base/build_info.h` `a/b.h`"
        self.assertEqual(missing_paths(text), ["core/gone.h", "core/base/nowhere.cpp"])


if __name__ == "__main__":
    unittest.main()
