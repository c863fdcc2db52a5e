#!/usr/bin/env python3
"""scripts/gpu_check with a program in lockstep's place: what it must find, what it survives."""
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/gpu_check"

# Prints what the test wrote into a file beside it.
LOCKSTEP = """\
    import os, sys
    place = os.path.dirname(__file__)
    words = sys.argv[1:]
    if words[0] == "--version":
        print("lockstep 0.1.0\\nCUDA simulated")
    elif words[0] == "doctor":
        print(open(place + "/doctor").read())
    elif words[0] == "train":
        odd = open(place + "/odd").read()
        print("weights sha256:" + ("ab" if odd and odd in words else "cd") * 32)
    """
PASSES = "print('[  PASSED  ] 3 tests.')"
FAILS = ("print('[  FAILED  ] CudaGemm.AddsABias (3 ms)\\n[  PASSED  ] 2 tests.\\n"
         "[  FAILED  ] 1 test, listed below:'); raise SystemExit(1)")
HANGS = "import time\ntime.sleep(600)"


def module():
    loader = SourceFileLoader("gpu_check", str(SCRIPT))
    loaded = module_from_spec(spec_from_loader("gpu_check", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(loaded)
    return loaded


class Bundle(unittest.TestCase):
    def setUp(self):
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        for folder in ("bin", "configs", "lib"):
            (self.place / folder).mkdir()
        shutil.copy(SCRIPT, self.place)
        (self.place / "COMMIT").write_text("0123456789ab\n")
        self.program("lockstep", LOCKSTEP)
        self.put("doctor", "ok   CUDA devices: 1 x card")
        self.put("odd", "")

    def put(self, name, text):
        (self.place / "bin" / name).write_text(text)

    def program(self, name, text):
        path = self.place / "bin" / name
        path.write_text("#!/usr/bin/env python3\n" + textwrap.dedent(text) + "\n")
        path.chmod(0o755)

    def check(self, *words):
        done = subprocess.run([str(self.place / "gpu_check"), "--report", "report.md", *words],
                              cwd=self.place, capture_output=True, text=True, timeout=120)
        return done.returncode, (self.place / "report.md").read_text() + done.stderr

    def test_equal_weights_pass(self):
        code, report = self.check("--only", "device,bits")
        self.assertEqual(code, 0, report)
        self.assertIn("Commit 0123456789ab", report)
        self.assertIn("No part failed", report)

    def test_other_weights_of_any_run_fail(self):
        for odd in ("-n2", "-n4", "parallel.strategy=fsdp", "train.recompute=blocks",
                    "train.capture=off"):
            self.put("odd", odd)
            code, report = self.check("--only", "bits")
            self.assertEqual(code, 1, report)
            self.assertIn("the weights differ in fp32 and bf16", report)

    def test_no_device_fails(self):
        self.put("doctor", "ok   CUDA devices: none: no driver")
        code, report = self.check("--only", "device")
        self.assertEqual(code, 1, report)
        self.assertIn("lockstep sees no CUDA device", report)

    def test_a_failed_test_is_named_and_others_run(self):
        self.program("cuda_tests", FAILS)
        self.program("other_tests", PASSES)
        code, report = self.check("--only", "tests")
        self.assertEqual(code, 1, report)
        self.assertIn("| cuda_tests | 2 | 1 |", report)
        self.assertIn("cuda_tests ended with 1: CudaGemm.AddsABias", report)
        self.assertIn("| other_tests | 3 | 0 |", report)

    def test_a_part_that_hangs_ends_and_later_ones_are_told(self):
        self.program("cuda_tests", HANGS)
        code, report = self.check("--only", "tests,bits", "--limit", "4")
        self.assertEqual(code, 1, report)
        self.assertIn("cuda_tests was killed at its time limit", report)
        self.assertIn("skipped: no time was left", report)

    def test_an_unknown_part_is_refused(self):
        done = subprocess.run([str(self.place / "gpu_check"), "--only", "bit"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no part 'bit'", done.stderr)


class KernelTable(unittest.TestCase):
    def test_weighs_by_time(self):
        written = []

        class Check:
            write = staticmethod(written.append)

        metrics = list(module().COUNTERS)
        rows = []
        for launch, (name, values) in enumerate([("gemm", ("3,000", "10", "90")),
                                                 ("gemm", ("1,000", "50", "10")),
                                                 ("norm", ("4000", "80", "5"))]):
            rows += [{"ID": str(launch), "Kernel Name": name, "Metric Name": metric,
                      "Metric Value": value} for metric, value in zip(metrics, values)]
        module().kernel_table(Check, rows)
        self.assertIn("| `gemm` | 2 | 2.0 | 50.0 % | 20 % | 70 % |", written)
        self.assertIn("| `norm` | 1 | 4.0 | 50.0 % | 80 % | 5 % |", written)


if __name__ == "__main__":
    unittest.main()
