"""The machine as a group's template sees it: with what was measured for equal groups.

Input: a group, the machine with all choices. Output: the machine with the group's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from dslc.lowering.grouping.group import Group
from dslc.lowering.shared import told
from dslc.schedules.cpu.tiles.contract import Machine

MEASURED = ("contract", "attention")  # kinds of groups whose templates have parameters


def measured_key(group: Group, machine: Machine) -> str:
    """What choices for a group are kept under: all that its kernel's speed depends on."""
    text = f"{machine.vector_bits} {machine.tasks} {told(group, (), False, machine.repeated)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def for_group(group: Group, machine: Machine) -> Machine:
    """The machine with the choice that was measured for the group, if one was."""
    if not machine.choices or group.kind not in MEASURED:
        return machine
    choice = machine.choices.get(measured_key(group, machine))
    return machine if choice is None else replace(machine, choice=choice)
