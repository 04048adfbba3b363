"""Training's progress: a bar on a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dslc.training.loop import EpochDone, Event, StepDone


def told(values: Mapping[str, Any]) -> str:
    """Loss and metrics in one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name != "epoch")


class Display:
    """Shows events of the training loop; used as a context manager."""

    def __init__(self, epochs: int, *, quiet: bool) -> None:
        self.epochs = epochs
        self.quiet = quiet
        self.console = Console(file=sys.stdout)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[values]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("", total=None, epoch=f"1/{epochs}", values="")

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        match event:
            case StepDone(epoch, batch, batches, means):
                self.bar.update(
                    self.task,
                    completed=batch,
                    total=batches,
                    epoch=f"{epoch + 1}/{self.epochs}",
                    values=told(means),
                )
            case EpochDone(epoch, record):
                self.say(f"epoch {epoch + 1}/{self.epochs}  {told(record)}")
