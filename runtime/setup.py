"""Ships `dslc_runtime` alone, with its thread launcher built where there is a C compiler."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))

from launcher_build import COMMANDS

setup(
    packages=["dslc_runtime"],
    package_data={"dslc_runtime": ["py.typed", "*.c"]},
    cmdclass=COMMANDS,
)
