"""Ships two import packages (`dslc`, `dslc_runtime`) and the grammar as data.

Everything else stands in pyproject.toml; the launcher's build is the runtime's own.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent / "runtime"))

from launcher_build import COMMANDS

setup(
    packages=[*find_packages(include=["dslc*"]), "dslc.grammar", "dslc_runtime"],
    package_dir={
        "dslc": "dslc",
        "dslc.grammar": "grammar",
        "dslc_runtime": "runtime/dslc_runtime",
    },
    package_data={
        "dslc": ["py.typed", "std/*.dl", "explain/*.md", "build/standin/*", "template/*"],
        "dslc.grammar": ["*.lark"],
        "dslc_runtime": ["py.typed", "*.c"],
    },
    cmdclass=COMMANDS,
)
