#!/usr/bin/env python3
"""scripts/lint finds accesses without their lock and what clang-tidy knows, and forgets nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SOURCE = """#include "core/base/mutex.h"
struct Counter {
  int next() {
    %s
    return ++last;
  }
  lockstep::Mutex mutex;
  int last LOCKSTEP_GUARDED_BY(mutex) = 0;
};
"""
LOCKED = SOURCE % "const lockstep::MutexLock lock(mutex);"
UNLOCKED = SOURCE % ""
HAS_CLANG = shutil.which("clang++") and shutil.which("clang-tidy")


@unittest.skipUnless(HAS_CLANG, "clang is not installed")
class Lint(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        for header in ["core/base/mutex.h", "core/base/clock.h"]:
            with open(os.path.join(ROOT, header), encoding="utf-8") as text:
                self.write(header, text.read())
        self.write(".clang-tidy", "Checks: '-*,modernize-use-override'\nHeaderFilterRegex: '.*'\n")

    def write(self, path, text):
        os.makedirs(os.path.join(self.root, os.path.dirname(path)), exist_ok=True)
        with open(os.path.join(self.root, path), "w", encoding="utf-8") as out:
            out.write(text)

    def git(self, *arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments],
                       cwd=self.root, check=True, capture_output=True)

    def lint(self, *arguments):
        script = os.path.join(ROOT, "scripts/lint")
        command = [sys.executable, script, *arguments, "--root", self.root]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    def assert_right(self, *arguments, says):
        code, output = self.lint(*arguments)
        self.assertEqual(code, 0, output)
        self.assertIn(says, output)

    def assert_wrong(self, *arguments, says):
        code, output = self.lint(*arguments)
        self.assertEqual(code, 1, output)
        for text in says:
            self.assertIn(text, output)

    def test_an_access_without_the_lock_is_named(self):
        self.write("comm/a.cpp", LOCKED)
        self.assert_right("threads", says="1 of 1 sources read anew, findings in 0")
        self.write("comm/a.cpp", UNLOCKED)
        self.assert_wrong("threads", says=["comm/a.cpp:5", "'last' requires holding mutex 'mutex'"])

    def test_a_wait_without_the_lock_is_named(self):
        self.write("comm/a.cpp", '#include "core/base/mutex.h"\n'
                   "void f(lockstep::Condition& c, lockstep::Mutex& m) { c.wait(m); }\n")
        self.assert_wrong("threads", says=["comm/a.cpp:2", "'wait' requires holding mutex 'm'"])

    def test_another_mutex_is_named(self):
        self.write("comm/a.cpp", "#include <mutex>\nstd::mutex mutex;\n")
        self.assert_wrong("threads", says=["comm/a.cpp:2: std::mutex", "core/base/mutex.h"])

    def test_what_was_right_is_read_again_only_when_it_changed(self):
        self.write("comm/a.h", LOCKED)
        self.write("comm/a.cpp", '#include "comm/a.h"\n')
        self.assert_right("threads", says="1 of 1 sources read anew")
        self.assert_right("threads", says="0 of 1 sources read anew")
        self.write("comm/a.h", UNLOCKED)
        self.assert_wrong("threads", says=["comm/a.h:5"])
        self.assert_wrong("threads", says=["comm/a.h:5"])  # what was wrong is read each time

    def test_clang_tidy_reads_what_changed(self):
        base = "struct Base {\n  virtual ~Base() = default;\n  virtual void f();\n};\n"
        derived = "struct Derived : Base {\n  virtual void f();\n};\n"
        self.write("comm/old.cpp", base + derived)
        self.write("comm/a.h", base)
        self.write("comm/a.cpp", '#include "comm/a.h"\n')
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-qm", "first")
        self.git("checkout", "-qb", "change")
        self.assert_right("tidy", says="0 of 0 sources")
        self.write("comm/a.h", base + derived)
        self.assert_wrong("tidy", says=["comm/a.h:6", "modernize-use-override", "1 of 1 sources"])
        self.git("commit", "-qam", "second")
        self.assert_wrong("tidy", says=["comm/a.h:6"])
        self.assert_wrong("tidy", "--all", says=["comm/a.h:6", "comm/old.cpp:6"])
        self.assert_right("tidy", "--since", "HEAD", says="0 of 0 sources")

    def test_a_limit_says_what_is_left(self):
        self.write("comm/a.cpp", "int a;\n")
        self.assert_right("tidy", "--all", "--limit", "0", says="sources left for another run: 1")

    def test_an_unknown_revision_is_named(self):
        self.git("init", "-q", "-b", "main")
        self.assert_wrong("tidy", "--since", "nowhere", says=["'nowhere'"])


if __name__ == "__main__":
    unittest.main()
