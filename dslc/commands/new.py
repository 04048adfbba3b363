"""`dslc new DIR`: a small project that works: a model, its data, the commands.

The model is named after the folder: `dslc new my-net` makes `model MyNet`. DIR is made; it may also
be there already, if it is empty.
"""

from __future__ import annotations

import argparse
import os
import re
from importlib.resources import files
from pathlib import Path

from dslc.cli import EXIT_USAGE, UserError

# The file in dslc/template, and its name in the project.
FILES = {
    "model.dl": "model.dl",
    "data.py": "data.py",
    "README.md": "README.md",
    "gitignore": ".gitignore",
}
MODEL = "Spirals"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_ .]+[A-Za-z0-9]+)*")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that is new or empty")


def run(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    model = model_name(Path(os.path.abspath(folder)).name)
    refuse_what_is_in_use(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for template, name in FILES.items():
        text = (files("dslc") / "template" / template).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(MODEL, model), encoding="utf-8")
    print(f"wrote {', '.join(FILES.values())} to {folder}")
    steps = ["python data.py", "dslc check model.dl"]
    if folder.resolve() != Path.cwd():
        steps.insert(0, f"cd {folder}")
    print("\nnext:\n" + "\n".join(f"  {step}" for step in steps))
    print("\nREADME.md has the commands that train the model, build it, and run it from Python.")
    return 0


def model_name(folder: str) -> str:
    """The model's name: `my-net` gives `MyNet`."""
    if not _NAME.fullmatch(folder):
        raise UserError(
            f"no model can be named after {folder!r}: a name starts with a letter and has letters, "
            "digits, - and _ (such as my-net)",
            EXIT_USAGE,
        )
    return "".join(part[0].upper() + part[1:] for part in re.split(r"[-_ .]+", folder))


def refuse_what_is_in_use(folder: Path) -> None:
    """UserError unless the folder is new or empty."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; nothing was written", EXIT_USAGE)
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is no folder; nothing was written", EXIT_USAGE)
