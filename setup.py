"""Builds the extension with CMake. scripts/build_wheel makes a wheel without network.

LOCKSTEP_BUILD_DIR names a build tree. One that is configured already is used as it is.
"""

import os
import pathlib
import re
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "LOCKSTEP_PYTHON_MODULE": "ON",
    "LOCKSTEP_TORCH": "OFF",
    "LOCKSTEP_BUILD_TESTS": "OFF",
    "LOCKSTEP_BUILD_BENCH": "OFF",
    "LOCKSTEP_BUILD_EXAMPLES": "OFF",
    "LOCKSTEP_PYTHON": sys.executable,
}


class WithCMake(build_ext):
    def build_extension(self, extension):
        tree = pathlib.Path(os.environ.get("LOCKSTEP_BUILD_DIR") or self.build_temp).resolve()
        if not (tree / "CMakeCache.txt").exists():
            options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
            subprocess.run(["cmake", "-S", ROOT, "-B", tree, "-G", "Ninja", *options], check=True)
        subprocess.run(["cmake", "--build", tree, "--target", "lockstep_python"], check=True)
        built = next((tree / "python/lockstep").glob("_core.*.so"))
        target = pathlib.Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["strip", "--strip-unneeded", "-o", target, built], check=True)


version = re.search(r"VERSION (\d+\.\d+\.\d+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
setup(
    version=version,
    ext_modules=[Extension("lockstep._core", sources=[])],
    cmdclass={"build_ext": WithCMake},
)
