"""Divides a function into groups: each becomes one kernel.

Input: an optimised Function. Output: a `Grouping`: groups in an order that can run, and views
(values that are another value's memory under other dims). Inside a group nothing is stored but
its `outputs`, which all have the same dims.

Equations are visited from the last to the first, so that the groups of all users are known. A
cheap value is computed anew in every group that uses it; any other is fused into the one group
that uses it, or stored. A stored value can still be computed inside a user's group when that reads
it element by element: it becomes one more output. Contractions and reductions are the anchors
of their groups; what reads their result element by element is their epilogue.

A scan is a group of its own; its body has a grouping of its own. So is a `put`, with what makes the
values that it puts: it can be done in place. So is attention, with what its mask, bias and factor
are computed from: what is as big as the scores there is not stored, whatever it costs to compute.

Non-goals: what reads operands from memory (`operands.py`, `uses.py`), the order of groups
(`drafts.py`), where values lie (`memory/plan.py`), how a group runs (`kernels/loops.py`, the
schedules).
"""

from __future__ import annotations

from dataclasses import field

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, product
from dslc.ir.types import ITEMSIZE
from dslc.lowering.grouping.cost import CONTRACTIONS
from dslc.lowering.grouping.drafts import Draft, Kind, in_order
from dslc.lowering.grouping.operands import (
    is_beginning,
    is_padded_rows,
    is_put_into,
    reads_from_memory,
    repeats,
    scores_of,
    stores,
    turns,
)
from dslc.lowering.grouping.traffic import CHEAP, FEW_ELEMENTS, Reading
from dslc.lowering.grouping.uses import Uses

Rows = tuple[Dim, ...]

VIEWS = ("reshape",)
# Equations that one kernel holds at most: a longer chain costs little to store in between, and its
# pieces are compiled side by side, those that are equal once. Many periods of a chain divide it.
MOST_FUSED = 60
# Groups of one equation (and what is fused into those that don't read all operands from memory).
ALONE: dict[str, Kind] = {
    "argsort": "rank",
    "scan": "scan",
    "put": "put",
    "attention": "attention",
    "attention_gradient": "attention",
}


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Equations that one kernel computes, or a scan. `outputs` are stored; `inputs` are read from
    memory, `pointwise` those of them that are read only at the index that is being written.

    One of kind `rows` (`rows.py`) has `parts`, which run one after the other for each index into
    `rows`, the first dims of all their results; `kept` are results that only parts read, each with
    its views."""

    kind: Kind
    eqns: tuple[Eqn, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    anchor: Eqn | None
    pointwise: frozenset[Value]
    parts: tuple[Group, ...] = ()
    rows: Rows = ()
    kept: tuple[tuple[Value, ...], ...] = ()

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.outputs[0].type.dims


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """`views[v]` is the stored value whose memory `v` is; `reasons[v]`: why a value is stored."""

    groups: tuple[Group, ...]
    views: dict[Value, Value]
    reasons: dict[Value, str] = field(default_factory=dict)

    def base(self, value: Value) -> Value:
        """The value whose memory `value` lies in."""
        return self.views.get(value, value)


class _Grouper:
    """The state of one run over a function."""

    def __init__(self, function: Function) -> None:
        self.uses = Uses(function)
        self.reasons: dict[Value, str] = {}
        self.drafts: list[Draft] = []
        self.inside: dict[Eqn, list[Draft]] = {}
        self.repeated: dict[Eqn, int] = {}  # operations on the way to what is stored

    # --- views ---------------------------------------------------------------------------------

    def is_view(self, eqn: Eqn) -> bool:
        """Whether the result is the operand's memory under other dims."""
        if eqn.op.name not in VIEWS:
            renames = eqn.op.name == "relabel" or is_beginning(eqn)
            return renames and (
                self.uses.must_be_stored(eqn.outputs[0]) or self.uses.has_view(eqn.outputs[0])
            )
        producer = self.uses.producer.get(eqn.inputs[0])
        if producer is None or producer.op.name in VIEWS:
            return True
        if self.is_turned_alone(producer, eqn):
            return False
        return bool(producer.inputs) and not self.is_computed_at_scores(eqn)

    def is_turned_alone(self, pad: Eqn, eqn: Eqn) -> bool:
        """Whether padded rows, which lie in memory, are read by a transpose across them and by
        nothing else, as where weights are packed: its kernel can put the zeros in
        (`kernels/turns.py`)."""
        if not is_padded_rows(pad, eqn):
            return False
        users, (out,) = self.uses.users.get(eqn.outputs[0], []), pad.outputs
        maker = self.uses.producer.get(pad.inputs[0])
        if maker is not None and maker.op.name not in VIEWS:
            return False
        used = {out, *eqn.outputs} & self.uses.results or len(self.uses.users[out]) > 1
        if used or len(users) != 1 or getattr(users[0].attrs, "perm", None) != (0, 2, 1):
            return False
        return all(len(draft.eqns) == 1 for draft in self.inside.get(users[0], ()))

    def is_computed_at_scores(self, eqn: Eqn) -> bool:
        """Whether nothing but the scores of attention reads the result, which is as big as they
        are and not stored anyway."""
        (x,), (out,) = eqn.inputs, eqn.outputs
        users = self.uses.all_users(out)
        if x in self.uses.anchored or out in self.uses.results or not users:
            return False
        drafts = [draft for user in users for draft in self.inside.get(user, ())]
        read = any(stores(user, out) for user in users)
        return bool(drafts) and not read and self.is_of_scores(eqn, drafts)

    # --- the walk --------------------------------------------------------------------------------

    def run(self) -> Grouping:
        for eqn in reversed(self.uses.function.eqns):
            if self.is_view(eqn):
                self.uses.views[eqn.outputs[0]] = eqn.inputs[0]
            else:
                self.place(eqn)
        for value in list(self.uses.views):
            base = value
            while base in self.uses.views:
                base = self.uses.views[base]
            self.uses.views[value] = base
        groups = tuple(self.finish(draft) for draft in in_order(self.drafts, self.wanted()))
        return Grouping(groups, self.uses.views, self.reasons)

    def place(self, eqn: Eqn) -> None:
        """Decides where `eqn` is computed, and whether its results are stored."""
        users = [user for out in eqn.outputs for user in self.uses.all_users(out)]
        drafts = list(dict.fromkeys(d for user in users for d in self.inside.get(user, ())))
        is_result = any(v in self.uses.results or self.uses.view_is_result(v) for v in eqn.outputs)
        if not drafts and not is_result:
            return
        why = "a result" if is_result else None
        if eqn.op.name in ALONE:
            self.place_alone(eqn, drafts)
        elif self.uses.is_anchor(eqn):
            self.place_anchor(eqn, drafts, is_result)
        elif why := why or self.why_stored(eqn, users, drafts):
            self.store(eqn, drafts)
            self.reasons.update(dict.fromkeys(eqn.outputs, why))
        else:
            for draft in drafts:
                self.add(draft, eqn)

    def why_stored(self, eqn: Eqn, users: list[Eqn], drafts: list[Draft]) -> str | None:
        """Why `eqn` may not be computed in its users' groups and never stored, if it may not."""
        (out, *more) = eqn.outputs
        if more:
            return "made together with others"
        if self.uses.has_view(out):
            return "read under other dims"
        if not eqn.inputs:
            needed = next((user for user in users if stores(user, out)), None)
            return f"read from memory by {needed.op.name}" if needed else None
        reader = next((user for user in users if reads_from_memory(user, out)), None)
        if reader is not None:
            return f"read from memory by {reader.op.name}"
        if self.is_of_scores(eqn, drafts):
            return None
        if self.is_kept_rounded(eqn, drafts):
            return "rounded behind a product"
        if out in self.uses.anchored and not all(self.is_identity(eqn, draft) for draft in drafts):
            return "made of a sum, and not read where it is made"
        weight = self.uses.costs[eqn].weight
        if weight > CHEAP and any(self.is_repeated(eqn, draft) for draft in drafts):
            return f"{weight} operations, read more often than it has elements"
        if self.uses.costs[eqn].window is not None and any(map(turns, users)):
            return "a window, read across"
        if any(self.is_written_out(eqn, draft) for draft in drafts):
            return "a window, behind a product"
        if eqn.op.elementwise and any(len(draft.eqns) >= MOST_FUSED for draft in drafts):
            return f"behind {MOST_FUSED} operations"
        return self.why_not_repeated(eqn, drafts) if len(drafts) > 1 else None

    def is_kept_rounded(self, eqn: Eqn, drafts: list[Draft]) -> bool:
        """Whether it rounds what is made of a product and widened again where another product is
        made: in between it is stored, as fewer bytes."""
        out, *_ = eqn.outputs
        users = self.uses.users.get(out, ())
        if eqn.op.name != "cast" or out not in self.uses.contracted or len(users) != 1:
            return False
        size, wide = (ITEMSIZE[value.type.dtype] for value in (out, eqn.inputs[0]))
        back = users[0].op.name == "cast" and users[0].outputs[0].type == eqn.inputs[0].type
        return size < wide and back and all(draft.anchor is not None for draft in drafts)

    def why_not_repeated(self, eqn: Eqn, drafts: list[Draft]) -> str | None:
        """Why `eqn` may not be computed by each of its users' groups, if it may not."""
        (out,) = eqn.outputs
        if out in self.uses.contracted and any(
            self.uses.users[v] == [eqn] for v in eqn.inputs if v in self.uses.contracted
        ):
            return f"behind a product, read by {len(drafts)} kernels"
        users = (user for user in self.uses.users[out] if user in self.repeated)
        behind = max((self.repeated[user] for user in users), default=0)
        operations = self.uses.costs[eqn].weight + behind
        if isinstance(out.type.size, int) and out.type.size <= FEW_ELEMENTS:
            return f"{operations} operations" if operations > CHEAP else None
        operands = tuple(self.bytes_read(eqn, draft) for draft in drafts)
        reading = Reading(ITEMSIZE[out.type.dtype], operations, operands)
        if not reading.pays:
            return reading.why
        self.repeated[eqn] = operations
        return None

    def bytes_read(self, eqn: Eqn, draft: Draft) -> float:
        """Bytes that the draft reads more for each element of `eqn`'s result if it computes it."""
        (out,) = eqn.outputs
        total = 0.0
        for value in dict.fromkeys(eqn.inputs):
            if not any(user in draft.eqns for user in self.uses.users[value]):
                total += self.uses.bytes_for_each(value, out)
        return total

    def is_of_scores(self, eqn: Eqn, drafts: list[Draft]) -> bool:
        """Whether `eqn` makes something as big as the scores of the attention that uses it."""
        (out,) = eqn.outputs
        if self.uses.is_anchor(eqn) or out in self.uses.anchored:
            return False
        anchors = [draft.anchor for draft in drafts if draft.kind == "attention"]
        return len(anchors) == len(drafts) and all(
            anchor is not None and out.type.size == product(scores_of(anchor)) for anchor in anchors
        )

    def is_identity(self, eqn: Eqn, draft: Draft) -> bool:
        """Whether `draft` reads `eqn`'s result only at the index that it writes."""
        if eqn.outputs[0].type.dims != draft.dims or self.uses.has_view(eqn.outputs[0]):
            return False
        users = [user for out in eqn.outputs for user in self.uses.users.get(out, ())]
        return all(
            user.op.elementwise and user in draft.identity for user in users if user in draft.eqns
        )

    def is_repeated(self, eqn: Eqn, draft: Draft) -> bool:
        """Whether an element of `eqn` would be computed more than once in `draft`."""
        for out in eqn.outputs:
            for user in self.uses.users.get(out, ()):
                if user in draft.eqns and (
                    user in draft.grows or repeats(user, out, self.uses.costs[user])
                ):
                    return True
        return False

    def is_written_out(self, eqn: Eqn, draft: Draft) -> bool:
        """Whether the draft would have a window in the epilogue of a product: as a tile writes that
        out for each of its elements, LLVM would take minutes."""
        if eqn.op.name in CONTRACTIONS:
            return any(self.uses.costs[each].window for each in draft.eqns)
        return draft.kind == "contract" and self.uses.costs[eqn].window is not None

    def add(self, draft: Draft, eqn: Eqn) -> None:
        identity = self.is_identity(eqn, draft)
        if self.is_repeated(eqn, draft):
            draft.grows.add(eqn)
        draft.eqns.add(eqn)
        if identity:
            draft.identity.add(eqn)
        self.inside.setdefault(eqn, []).append(draft)

    def store(self, eqn: Eqn, drafts: list[Draft]) -> None:
        """Stores `eqn`'s results: as outputs of a user's group, or of a group of its own."""
        host = self.host(eqn, drafts) or self.beside(eqn, drafts)
        if host is None:
            host = self.new_draft(eqn)
        else:
            self.add(host, eqn)
        host.identity.add(eqn)
        host.outputs.extend(eqn.outputs)
        host.after.update(draft for draft in drafts if draft is not host)

    def new_draft(self, eqn: Eqn) -> Draft:
        draft = Draft(eqn.outputs[0].type.dims, {eqn})
        draft.identity.add(eqn)
        self.drafts.append(draft)
        self.inside.setdefault(eqn, []).append(draft)
        return draft

    def host(self, eqn: Eqn, drafts: list[Draft]) -> Draft | None:
        """A user's group that can compute `eqn` as one more of its outputs."""
        for draft in drafts:
            if draft.kind == "scatter" or not self.is_identity(eqn, draft):
                continue
            if len(draft.eqns) >= MOST_FUSED:
                continue
            # What is behind a product keeps the place for it.
            anchored = self.uses.is_anchor(eqn) or eqn.outputs[0] in self.uses.contracted
            if anchored and draft.anchor is not None:
                continue
            if self.is_written_out(eqn, draft):
                continue
            others = [other for other in drafts if other is not draft]
            if not any(other.reaches(draft) for other in others):
                return draft
        return None

    def beside(self, eqn: Eqn, drafts: list[Draft]) -> Draft | None:
        """A group that makes something else of what `eqn` rounds, and can store that as well: a
        product is then read where it is made."""
        if not self.is_kept_rounded(eqn, drafts):
            return None
        for user in self.uses.users[eqn.inputs[0]]:
            for draft in self.inside.get(user, ()):
                fits = user in draft.identity and draft.dims == eqn.outputs[0].type.dims
                if not fits or draft.anchor is not None or len(draft.eqns) >= MOST_FUSED:
                    continue
                if draft not in drafts and not any(other.reaches(draft) for other in drafts):
                    return draft
        return None

    def place_anchor(self, eqn: Eqn, drafts: list[Draft], is_result: bool) -> None:
        host = None
        stored = is_result or any(self.uses.has_view(out) for out in eqn.outputs) or len(drafts) > 1
        # Of several results of an anchor, all are stored or none.
        if not self.uses.costs[eqn].scatters and not (stored and len(eqn.outputs) > 1):
            host = self.host(eqn, drafts)
        if host is None:
            host = self.new_draft(eqn)
            host.outputs.extend(eqn.outputs)
        else:
            self.add(host, eqn)
            host.identity.add(eqn)
            if stored:
                host.outputs.append(eqn.outputs[0])
        host.anchor = eqn
        host.kind = self.kind(eqn)
        host.after.update(draft for draft in drafts if draft is not host)

    def place_alone(self, eqn: Eqn, drafts: list[Draft]) -> None:
        """A group of its own, which stores all its results."""
        alone = self.new_draft(eqn)
        alone.outputs.extend(eqn.outputs)
        alone.anchor, alone.kind = eqn, ALONE[eqn.op.name]
        alone.after.update(drafts)

    def kind(self, eqn: Eqn) -> Kind:
        if self.uses.costs[eqn].scatters:
            return "scatter"
        return "contract" if eqn.op.name in CONTRACTIONS else "reduce"

    # --- the result ----------------------------------------------------------------------------

    def wanted(self) -> dict[Draft, int]:
        """Behind which equation each group is wanted: its anchor, so that what the anchor reads
        needs no memory any more, even if updates are computed from the result. What may be written
        over a parameter comes behind all that reads that."""
        first = {
            draft: max(
                map(self.uses.order.__getitem__, [draft.anchor] if draft.anchor else draft.eqns)
            )
            for draft in self.drafts
        }
        wanted = dict(first)
        for param in self.uses.function.params:
            readers = {d for user in self.uses.all_users(param) for d in self.inside.get(user, ())}
            last = max((first[draft] for draft in readers), default=0)
            for draft in readers:
                if self.uses.results.intersection(draft.outputs) and self.is_pointwise(
                    param, draft
                ):
                    wanted[draft] = max(wanted[draft], last)
        return wanted

    def finish(self, draft: Draft) -> Group:
        eqns = sorted(draft.eqns, key=self.uses.order.__getitem__)
        made = {out for eqn in eqns for out in eqn.outputs}
        read = [v for eqn in eqns for v in eqn.inputs if v not in made]
        inputs = tuple(dict.fromkeys(read))
        pointwise = frozenset(v for v in inputs if self.is_pointwise(v, draft))
        return Group(draft.kind, tuple(eqns), inputs, tuple(draft.outputs), draft.anchor, pointwise)

    def is_pointwise(self, value: Value, draft: Draft) -> bool:
        if value.type.dims != draft.dims:
            return False
        users = [user for user in self.uses.users[value] if user in draft.eqns]
        return all(
            (user.op.elementwise and user in draft.identity) or is_put_into(user, value)
            for user in users
        )


def group(function: Function) -> Grouping:
    """The groups of `function`, in an order that can run. Every result that an equation makes
    is an output of a group or a view; results that are parameters are left to the caller."""
    return _Grouper(function).run()
