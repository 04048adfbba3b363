"""Models: the signature's dynamic dims, the shared part, each entry as an IR function.

Input: a `model` declaration and its static arguments. Output: `Entry`s and the dims of the program.
A dim of the signature that nothing binds is dynamic: known at each call. Non-goals: training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field

from dslc._frozen import dataclass
from dslc.ir.core import DimRange, Entry, Value
from dslc.ir.dims import Dim, Poly, free_symbols, linear_in, sym
from dslc.ir.prove import Prover
from dslc.semantics import calls, errors, sizes, statements
from dslc.semantics.context import Context, Frame, Mistake, Silent
from dslc.semantics.emission import Emission
from dslc.semantics.expressions import evaluate
from dslc.semantics.operators import own
from dslc.semantics.scope import Module
from dslc.semantics.signature import Matcher
from dslc.semantics.values import BAD, Bad, Code, Instance, Tensor, Thing, TupleOf, describe
from dslc.semantics.written import tensor_type
from dslc.syntax import ast


@dataclass(slots=True)
class ModelRun:
    """One elaboration of a model with given static arguments."""

    decl: ast.ModelDecl
    module: Module
    statics: Mapping[str, Thing]
    dims: dict[str, DimRange] = field(default_factory=dict)
    train_inputs: dict[str, Thing] = field(default_factory=dict)
    # Names of the model that the `train` block sees: dims and inputs.
    visible: set[str] = field(default_factory=set)

    def entries(self, ctx: Context) -> list[Entry]:
        """Every entry, for inference."""
        made = []
        for entry in self.decl.entries:
            emission = Emission()
            with ctx.building(emission):
                built = self._entry(ctx, entry)
            if built is not None:
                ctx.replaced.append((built, emission.replaced))
                made.append(built)
        return made

    def _entry(self, ctx: Context, entry: ast.Entry) -> Entry | None:
        ctx.entry = entry.name.name
        frame = self.begin(ctx, entry)
        result = self.body(ctx, frame, entry)
        sizes.demand(ctx, ctx.emission.builder.eqns)
        if isinstance(result, Bad):
            return None
        try:
            outputs = _outputs(ctx, result, entry)
        except Mistake as mistake:
            ctx.report(mistake.diagnostic)
            return None
        return ctx.emission.entry(entry.name.name, outputs)

    def forward(self, ctx: Context) -> tuple[ast.Entry, Frame]:
        """The entry that is trained, `forward` or the only one, with its arguments bound."""
        entries = self.decl.entries
        entry = next((e for e in entries if e.name.name == "forward"), entries[0])
        return entry, self.begin(ctx, entry)

    def begin(self, ctx: Context, entry: ast.Entry) -> Frame:
        """A frame with the entry's inputs as parameters of the function being built."""
        ctx.prover = Prover()
        code = Code(as_layer(self.decl, entry), self.module)
        frame = Frame(self.decl.name.name, "model", self.module, env=dict(self.statics))
        frame.instance = Instance(code, "", self.decl.name.span)
        with ctx.inside(frame):
            for arg in entry.args:
                ctx.bind(arg.name, self._input(ctx, frame, arg))
            check_told(ctx, frame, [arg.type for arg in entry.args], self.dims)
        return frame

    def _input(self, ctx: Context, frame: Frame, arg: ast.Arg) -> Thing:
        try:
            if isinstance(arg.type, ast.TupleTypeExpr):
                raise Mistake(errors.no_tuple_value(arg.type.span))
            if arg.default is not None:
                ctx.report(errors.default_of_input(arg.name.name, arg.default.span))
            if arg.name.name in frame.env:
                first = frame.declared.get(arg.name.name, self.decl.name.span)
                raise Mistake(errors.weight_twice(arg.name.name, arg.name.span, first))
            free_dims(ctx, frame, arg.type, self.dims)
            self.visible.update(n for n in frame.env if n in self.dims)
            type = tensor_type(ctx, arg.type)
        except Mistake as mistake:
            ctx.report(mistake.diagnostic)
            return BAD
        except Silent:
            return BAD
        frame.declared[arg.name.name] = arg.name.span
        self.visible.add(arg.name.name)
        value = ctx.emission.input(arg.name.name, type)
        return ctx.tensor(value, arg.name.span, f"the argument {arg.name.name}")

    def body(self, ctx: Context, frame: Frame, entry: ast.Entry) -> Thing:
        """What the entry returns, as declared."""
        with ctx.inside(frame):
            frame.declared.clear()
            statements.execute(ctx, self.decl.body)
            statements.execute(ctx, entry.body)
            name = self.decl.name if self.decl.short else entry.name
            return calls.finish(ctx, entry.result, name)


def as_layer(decl: ast.ModelDecl, entry: ast.Entry) -> ast.LayerDecl:
    """The layer that an entry of a model would be."""
    body = (*decl.body, *entry.body)
    return ast.LayerDecl(decl.span, decl.name, decl.statics, entry.args, entry.result, body, None)


def _outputs(ctx: Context, result: Thing, entry: ast.Entry) -> list[tuple[str, Value]]:
    things = result.elements if isinstance(result, TupleOf) else (result,)
    out: list[tuple[str, Value]] = []
    for number, thing in enumerate(things):
        if not isinstance(thing, Tensor):
            raise Mistake(errors.not_a_value(describe(thing), entry.result.span))
        name = "output" if len(things) == 1 else f"output.{number}"
        out.append((name, own(ctx, thing, entry.result.span)))
    return out


# --- dynamic dims -------------------------------------------------------------------------------


def free_dims(
    ctx: Context, frame: Frame, written: ast.TensorTypeExpr, dims: dict[str, DimRange]
) -> None:
    """Make every name that nothing binds a dynamic dim, with its bounds if it has any."""
    matcher = Matcher(ctx, frame)
    for dim in written.dims:
        if isinstance(dim, ast.Spread):
            note = "a model's inputs have a fixed number of dims"
            raise Mistake(errors.unbound_dim(f"*{dim.name.name}", dim.span, None, [note]))
        if isinstance(dim, ast.BoundedDim):
            _bound(ctx, frame, dim, dims)
            continue
        for node in ast.walk(dim):
            if isinstance(node, ast.Name) and matcher.is_free(node.name):
                if node.name == "None":
                    help = "a dim of any size has a name, as N in f32[N, 3]"
                    raise Mistake(errors.unbound_dim(node.name, node.span, help=help))
                if not node.name[:1].isupper():
                    near = ctx.nearest(node.name)
                    if isinstance(dim, ast.Name) and near is None:
                        pass
                    elif calls.is_function(node.name):
                        continue
                    else:
                        raise Mistake(errors.unbound_dim(node.name, node.span, near))
                frame.env[node.name] = sym(node.name)
                known = dims.setdefault(node.name, DimRange(node.name))
                ctx.prover = ctx.prover.bound(node.name, known.low, known.high)


def check_told(
    ctx: Context, frame: Frame, types: Sequence[ast.TypeExpr], dims: Mapping[str, DimRange]
) -> None:
    """That the runtime can read each dynamic dim off the inputs: it is a dim, or can be solved."""
    told: set[str] = set()
    written: list[tuple[ast.Expr, Dim]] = []
    with ctx.inside(frame):
        for dim in (d for t in types if isinstance(t, ast.TensorTypeExpr) for d in t.dims):
            if isinstance(dim, ast.BoundedDim):
                told.add(dim.name.name)
            elif isinstance(dim, ast.Name):
                told.add(dim.name)
            elif not isinstance(dim, ast.Spread):
                value = evaluate(ctx, dim)
                written += [(dim, value)] if isinstance(value, Poly) else []
    while True:
        solved = next((s for _, value in written if (s := solvable(value, told)) is not None), None)
        if solved is None:
            break
        told.add(solved)
    for expr, value in written:
        unknown = sorted((free_symbols(value) & dims.keys()) - told)
        if unknown:
            told.update(unknown)
            text = " ".join(expr.span.text.split())
            ctx.report(errors.dim_not_told(unknown[0], text, expr.span))


def solvable(dim: Dim, told: AbstractSet[str]) -> str | None:
    """The one unknown of a dim, if the dim's size tells what it is."""
    unknown = free_symbols(dim) - told
    linear = linear_in(dim, *unknown) if len(unknown) == 1 else None
    if linear is None or not isinstance(linear[0], int) or linear[0] < 1:
        return None
    return next(iter(unknown))


def _bound(ctx: Context, frame: Frame, dim: ast.BoundedDim, dims: dict[str, DimRange]) -> None:
    name = dim.name.name
    low, high = evaluate(ctx, dim.low), evaluate(ctx, dim.high)
    for value, expr in ((low, dim.low), (high, dim.high)):
        if isinstance(value, Bad):
            raise Silent
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise Mistake(errors.bad_dim(describe(value), expr.span))
    if not isinstance(low, int) or not isinstance(high, int):
        raise Silent
    if low > high:
        raise Mistake(errors.no_size_fits(name, low, high, dim.span))
    if name in frame.env and frame.env[name] not in (sym(name), low if low == high else None):
        raise Mistake(errors.bounded_number(name, describe(frame.env[name]), dim.span))
    before, now = dims.get(name), DimRange(name, low, high)
    if before is not None and before.high is not None and before != now:
        raise Mistake(errors.bounds_differ(name, dim.span, f"{before.low}..{before.high}"))
    # A dim of one possible size is that number: so is the code made for it.
    frame.env[name] = low if low == high else sym(name)
    ctx.learn(dim.name.span, frame.env[name])
    dims[name] = now
    ctx.prover = ctx.prover.bound(name, low, high)
