"""Builds `dslc_runtime/_launcher.so` while a wheel is made: used by this folder's setup.py and by
the one above. A plain shared object, no Python extension, so one build serves every Python. Without
a working C compiler the wheel has none, and the runtime builds it at first use or runs on one
thread.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = Path(__file__).parent / "dslc_runtime"


def load_launcher():
    """`dslc_runtime/launcher.py` by itself, without the package's dependencies."""
    spec = importlib.util.spec_from_file_location("_dslc_launcher", PACKAGE / "launcher.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class build_py_with_launcher(build_py):
    """Adds the shared object beside the package's modules. An editable install has it built in the
    user's cache at first use instead."""

    def run(self):
        super().run()
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if self.editable_mode or compiler is None:
            return
        output = Path(self.build_lib) / "dslc_runtime" / "_launcher.so"
        output.parent.mkdir(parents=True, exist_ok=True)
        if not load_launcher().build(compiler, output):
            self.announce("the thread launcher did not compile; it is left out", level=3)


class bdist_wheel_for_platform(bdist_wheel):
    """Tags the wheel for this platform and any Python 3: machine code, but no extension."""

    def finalize_options(self):
        self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self):
        _, _, platform = super().get_tag()
        return "py3", "none", platform


COMMANDS = {"build_py": build_py_with_launcher, "bdist_wheel": bdist_wheel_for_platform}
