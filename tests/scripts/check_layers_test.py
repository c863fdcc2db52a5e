#!/usr/bin/env python3
"""scripts/check_layers finds wrong edges, and names them."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CHECK = os.path.join(ROOT, "scripts", "check_layers")


def run_on(files):
    """Runs check_layers on a tree of {path: text}; returns (exit code, output)."""
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as out:
                out.write(text)
        done = subprocess.run([sys.executable, CHECK, root], capture_output=True,
                              text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr


class CheckLayers(unittest.TestCase):
    def assert_wrong(self, files, *words):
        code, output = run_on(files)
        self.assertEqual(code, 1, output)
        for word in words:
            self.assertIn(word, output)

    def assert_right(self, files):
        code, output = run_on(files)
        self.assertEqual(code, 0, output)

    def test_downward_edges_pass(self):
        self.assert_right({
            "core/base/error.h": "#include <string>\n",
            "core/tensor/tensor.h": '#include "core/base/error.h"\n',
            "comm/work.h": '#include "core/tensor/tensor.h"\n',
            "ddp/ddp.cpp": '#include "comm/work.h"\n',
        })

    def test_upward_edge_is_named_with_line_and_rule(self):
        self.assert_wrong({"core/tensor/tensor.h": '#pragma once\n#include "comm/work.h"\n',
                           "comm/work.h": ""},
                          "core/tensor/tensor.h:2:", "core/tensor must not use comm")

    def test_siblings_stay_apart(self):
        for user, used in [("ddp", "checkpoint"), ("ddp", "fsdp"), ("fsdp", "ddp"),
                           ("checkpoint", "ddp"), ("checkpoint", "fsdp"),
                           ("checkpoint", "core/nn"), ("comm", "core/autograd"),
                           ("comm", "core/nn"), ("comm", "launcher"),
                           ("core/nn", "core/optim"), ("core/optim", "core/nn"),
                           ("core/nn", "comm"), ("launcher", "core/tensor"),
                           ("train/run", "cli"), ("train/data", "train/run"),
                           ("launcher/rendezvous", "launcher/agent"),
                           ("checkpoint/files", "checkpoint/format"), ("comm/engine", "comm/shm"),
                           ("core/base", "core/device"), ("comm/shm", "comm/mpi")]:
            with self.subTest(user=user, used=used):
                self.assert_wrong({f"{user}/a.cpp": f'#include "{used}/b.h"\n', f"{used}/b.h": ""},
                                  f"{user} must not use {used}")

    def test_single_files_that_are_excepted(self):
        self.assert_right({"launcher/rank/a.cpp": '#include "comm/store.h"\n', "comm/store.h": ""})
        self.assert_wrong({"launcher/rank/a.cpp": '#include "comm/work.h"\n', "comm/work.h": ""},
                          "launcher/rank must not use comm")
        # The file that chooses a backend knows them all; the others of its folder know none.
        self.assert_right({"comm/create.cpp": '#include "comm/shm/factory.h"\n',
                           "comm/shm/factory.h": ""})
        self.assert_wrong({"comm/text.cpp": '#include "comm/shm/factory.h"\n',
                           "comm/shm/factory.h": ""},
                          "comm must not use comm/shm")
        self.assert_right({"fsdp/a.cpp": '#include "core/nn/module.h"\n', "core/nn/module.h": ""})
        self.assert_wrong({"fsdp/a.cpp": '#include "core/nn/layers.h"\n', "core/nn/layers.h": ""},
                          "fsdp must not use core/nn")

    def test_every_folder_is_in_the_plan(self):
        self.assert_wrong({"train/new/a.cpp": '#include "core/base/b.h"\n', "core/base/b.h": ""},
                          "train/new has no line in the plan")

    def test_folders_stay_small(self):
        self.assert_right({f"comm/shm/a{i}.cpp": "" for i in range(26)})
        self.assert_wrong({f"comm/shm/a{i}.cpp": "" for i in range(27)}, "comm/shm: 27 files")

    def test_libraries_stay_in_their_folders(self):
        self.assert_right({"comm/mpi/a.cpp": "#include <mpi.h>\n",
                           "launcher/a.cpp": "#include <grpcpp/server.h>\n",
                           "core/device/cuda/a.cu": "#include <cuda_runtime.h>\n"})
        for path, header in [("comm/a.cpp", "mpi.h"), ("comm/nccl/a.cpp", "cuda_runtime.h"),
                             ("core/ops/a.cpp", "cublasLt.h"),
                             ("comm/a.cpp", "grpcpp/grpcpp.h"), ("core/nn/a.cpp", "dnnl.hpp"),
                             ("ddp/a.cpp", "spdlog/spdlog.h"),
                             ("train/a.cpp", "nccl.h")]:
            with self.subTest(path=path, header=header):
                self.assert_wrong({path: f"#include <{header}>\n"}, f"{path}:1:", header)

    def test_headers_that_include_each_other(self):
        self.assert_wrong({"comm/a.h": '#include "comm/b.h"\n', "comm/b.h": '#include "comm/c.h"\n',
                           "comm/c.h": '#include "comm/a.h"\n'},
                          "include each other", "comm/a.h → comm/b.h → comm/c.h → comm/a.h")

    def test_headers_that_are_not_there(self):
        self.assert_wrong({"comm/a.cpp": '#include "comm/gone.h"\n'}, "comm/a.cpp:1:",
                          "no such file")
        self.assert_wrong({"comm/a.cpp": '#include "a.h"\n', "comm/a.h": ""},
                          "by their path from the root")

    def test_generated_headers_pass(self):
        self.assert_right({"launcher/a.cpp": '#include "launcher/rendezvous.pb.h"\n'})
        self.assert_right({"cli/a.cpp": '#include "core/base/version.h"\n',
                           "core/base/version.h.in": ""})

    def test_an_empty_tree_is_no_success(self):
        self.assert_wrong({"README.md": ""}, "no sources")


class Tree(unittest.TestCase):
    # Folders of tests that are about no single folder of the sources.
    OWN = {"conformance", "e2e", "exchange", "fuzz", "install", "scripts", "support", "torch",
           "checkpoint/devices", "core/parity", "train/devices"}

    def folders(self):
        top = os.path.join(ROOT, "tests")
        for folder, _, files in os.walk(top):
            yield os.path.relpath(folder, top), files

    def test_tests_mirror_the_sources(self):
        for folder, files in self.folders():
            if any(folder == own or folder.startswith(own + "/") for own in self.OWN):
                continue
            if any(name.endswith("_test.cpp") for name in files):
                self.assertTrue(os.path.isdir(os.path.join(ROOT, folder)),
                                f"tests/{folder} mirrors no folder")

    def test_a_file_of_tests_has_a_name_that_says_so(self):
        for folder, files in self.folders():
            for name in files:
                if not name.endswith(".cpp"):
                    continue
                with open(os.path.join(ROOT, "tests", folder, name), encoding="utf-8") as text:
                    has_tests = re.search(r"^TEST(_F|_P)?\(", text.read(), re.MULTILINE)
                if has_tests:
                    self.assertTrue(name.endswith("_test.cpp"),
                                    f"tests/{folder}/{name} holds tests")


if __name__ == "__main__":
    unittest.main()
