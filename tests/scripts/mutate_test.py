#!/usr/bin/env python3
"""The list of mutations fits the sources: scripts/mutate finds each place exactly once."""

import os
import subprocess
import unittest

MUTATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "mutate")


class Mutations(unittest.TestCase):
    def test_every_place_is_there_once(self):
        listed = subprocess.run([MUTATE, "--list"], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, check=False)
        stale = [line for line in listed.stdout.splitlines() if line.startswith("STALE")]
        self.assertEqual((listed.returncode, stale), (0, []), listed.stdout)

    def test_a_name_that_matches_nothing_is_refused(self):
        none = subprocess.run([MUTATE, "--list", "no such mutation"], stderr=subprocess.PIPE,
                              text=True, check=False)
        self.assertEqual(none.returncode, 1)
        self.assertIn("no mutation is named like", none.stderr)


if __name__ == "__main__":
    unittest.main()
