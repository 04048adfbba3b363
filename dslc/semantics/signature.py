"""Types as written, matched against the types of arguments.

Input: type expressions of the tree, values of arguments. Output: values bound to names with the
dims that they determine. Dims bind in this order: a bare name takes the dim it meets; then an
expression with one unknown name is solved for it; the rest is checked by the prover. Non-goals:
types whose dims are known (`written.py`), static arguments (`statics.py`), bodies (`calls.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.diagnostics import Label
from dslc.ir.dims import Dim, Poly, floordiv, linear_in, mod, substitute, sym
from dslc.ir.types import TensorType, is_float
from dslc.semantics import errors
from dslc.semantics.context import Context, DimOrigin, Frame, Mistake, Silent
from dslc.semantics.repairs import element_help
from dslc.semantics.values import (
    Given,
    Instance,
    Tensor,
    Thing,
    TupleOf,
    describe,
    is_static,
    show_type,
)
from dslc.semantics.written import dim_of, dtype_of
from dslc.source import Span
from dslc.syntax import ast


@dataclass(slots=True)
class _Equation:
    """A declared dim expression and the dim it meets."""

    expr: ast.Expr
    actual: Dim
    name: str
    declared: ast.TensorTypeExpr
    tensor: Tensor
    span: Span
    axis: int

    def text(self) -> str:
        """The declared dim on one line."""
        return " ".join(self.expr.span.text.split())


@dataclass(slots=True)
class Matcher:
    """Binds names of a callee's frame to the types of values. `what` names what is matched."""

    ctx: Context
    frame: Frame
    what: str = "argument"
    equations: list[_Equation] = field(default_factory=list)

    def match(self, name: str, written: ast.TypeExpr, given: Given) -> None:
        """Match one value; equations are kept for `solve`."""
        thing = given.thing
        if isinstance(written, ast.TupleTypeExpr):
            if not isinstance(thing, TupleOf) or len(thing.elements) != len(written.elements):
                raise self._wrong(name, written, given, describe(thing), ())
            for part, element in zip(written.elements, thing.elements):
                self.match(name, part, Given(None, element, given.span))
            return
        if is_static(thing) and not isinstance(thing, str):
            if not self._takes_number(written, thing):
                notes, help = ("a tensor is needed",), self._filled(written, given)
                raise self._wrong(name, written, given, describe(thing), notes, help)
            return
        if not isinstance(thing, Tensor):
            text = given.span.text
            uncalled = f"call it first: {text}(x)" if isinstance(thing, Instance) else None
            raise self._wrong(name, written, given, describe(thing), (), uncalled)
        self._match_dtype(name, written, given, thing)
        self._match_dims(name, written, given, thing)

    def _takes_number(self, written: ast.TensorTypeExpr, thing: Thing) -> bool:
        """Whether a number can stand for the tensor: of any dims it has none."""
        if not written.dims:
            return True
        (spread, *others) = written.dims
        if others or not isinstance(spread, ast.Spread) or isinstance(thing, bool):
            return False
        return self.frame.env.setdefault(spread.name.name, TupleOf(())) == TupleOf(())

    def _filled(self, written: ast.TensorTypeExpr, given: Given) -> str | None:
        """A tensor of the number, if it is said already which dims it has."""
        spread = written.dims[0]
        name = spread.name.name if isinstance(spread, ast.Spread) else None
        bound = self.frame.env.get(name) if name is not None else None
        if len(written.dims) > 1 or not isinstance(bound, TupleOf) or isinstance(given.thing, bool):
            return None
        dims = "".join(f"{dim}, " for dim in bound.elements)
        return f"a tensor of it is full[{dims}value={given.span.text}]()"

    def _match_dtype(
        self, name: str, written: ast.TensorTypeExpr, given: Given, tensor: Tensor
    ) -> None:
        actual = tensor.type.dtype
        word = written.dtype.name
        if word == "float" and word not in self.frame.env:
            fits = is_float(actual) and self.frame.float_dtype in (None, actual)
            if fits and self.frame.float_dtype is None:
                self.frame.float_dtype = actual
                self.frame.dim_origins["float"] = DimOrigin(name, given.span, tensor.type)
        else:
            with self.ctx.inside(self.frame):
                fits = dtype_of(self.ctx, written.dtype) == actual
        if not fits:
            wanted = self.frame.float_dtype or "float" if word == "float" else word
            notes = [f"the dtype differs ({wanted} and {actual})"]
            if word == "float" and self.frame.float_dtype is not None:
                notes.append(f"float is {wanted}{self._since('float')}")
            help = _dtype_help(wanted, given, tensor, self.what)
            raise self._wrong(name, written, given, show_type(tensor.type), notes, help)

    def _match_dims(
        self, name: str, written: ast.TensorTypeExpr, given: Given, tensor: Tensor
    ) -> None:
        actual = tensor.type.dims
        spreads = [i for i, d in enumerate(written.dims) if isinstance(d, ast.Spread)]
        if len(spreads) > 1:
            second = written.dims[spreads[1]]
            raise Mistake(errors.two_packs(second.span.text.removeprefix("*"), second.span))
        extra = len(actual) - (len(written.dims) - len(spreads))
        if extra < 0 or (extra > 0 and not spreads):
            wanted = len(written.dims) - len(spreads)
            least = "at least " if spreads else ""
            note = f"{least}{_count(wanted)} needed, {show_type(tensor.type)} has {len(actual)}"
            help = None
            if extra == -1 and not spreads and len(actual) > 1:
                help = f"None as an index puts in a dim of 1: {given.span.text}[:, None]"
            if extra > 0 and tensor.note.words.startswith("from dense"):
                help = "dense works along the last dim; flatten before it makes one vector of each"
            raise self._wrong(name, written, given, show_type(tensor.type), (note,), help)
        axis = 0
        for dim in written.dims:
            if isinstance(dim, ast.Spread):
                self._bind_spread(name, written, given, tensor, dim, actual[axis : axis + extra])
                axis += extra
                continue
            if isinstance(dim, ast.BoundedDim) and self.what != "argument":
                raise Mistake(errors.bounds_elsewhere(dim))
            expr = (
                ast.Name(dim.name.span, dim.name.name) if isinstance(dim, ast.BoundedDim) else dim
            )
            if isinstance(expr, ast.Name) and self.is_free(expr.name):
                self.frame.env[expr.name] = actual[axis]
                self.frame.dim_origins[expr.name] = DimOrigin(name, given.span, tensor.type)
            else:
                self.equations.append(
                    _Equation(expr, actual[axis], name, written, tensor, given.span, axis)
                )
            axis += 1

    def _bind_spread(
        self,
        name: str,
        written: ast.TensorTypeExpr,
        given: Given,
        tensor: Tensor,
        spread: ast.Spread,
        dims: tuple[Dim, ...],
    ) -> None:
        if spread.name.name not in self.frame.env:
            self.frame.dim_origins[spread.name.name] = DimOrigin(name, given.span, tensor.type)
        bound = self.frame.env.setdefault(spread.name.name, TupleOf(dims))
        if not isinstance(bound, TupleOf):
            raise Silent
        same = len(bound.elements) == len(dims)
        for a, b in zip(bound.elements, dims):
            same = same and isinstance(a, int | Poly) and self.ctx.same(a, b) is True
        if not same:
            before = ", ".join(str(e) for e in bound.elements)
            note = f"*{spread.name.name} is [{before}]{self._since(spread.name.name)}"
            origin = self.frame.dim_origins.get(spread.name.name)
            help = _other_dims_help(bound.elements, origin, given, tensor)
            raise self._wrong(name, written, given, show_type(tensor.type), (note,), help)

    def _since(self, dim: str) -> str:
        """Which argument said what a dim is: ", because `x` is f32[N, 8]"."""
        origin = self.frame.dim_origins.get(dim)
        if origin is None:
            return ""
        return f", because `{origin.argument}` is {show_type(origin.type)}"

    def is_free(self, name: str) -> bool:
        """Whether nothing says yet what the dim `name` is."""
        module = self.frame.module
        if name in self.frame.env or module.is_missing(name):
            return False
        found = module.lookup(name)
        return not (isinstance(found, tuple) and isinstance(found[1], ast.ConstDecl))

    def solve(self) -> None:
        """Settle the equations: solve for a name, or check."""
        pending = self.equations
        while pending:
            later = [e for e in pending if not self._settle(e)]
            if len(later) == len(pending):
                raise self._unsolvable(later[0])
            pending = later
        self.equations = []

    def _settle(self, equation: _Equation) -> bool:
        """False when more than one name of the equation is unknown."""
        unknown = sorted({n for n in _names(equation.expr) if self.is_free(n)})
        if len(unknown) > 1:
            return False
        frame = self.frame
        if unknown:
            frame.env[unknown[0]] = sym(f"?{unknown[0]}")
        with self.ctx.inside(frame):
            wanted = dim_of(self.ctx, equation.expr)
        if not unknown:
            self._check(equation, wanted)
            return True
        del frame.env[unknown[0]]
        solution = _solve(self.ctx, wanted, f"?{unknown[0]}", equation.actual)
        if solution is None and self.ctx.choices is not None:
            solution = self.ctx.open_dim(unknown[0])
            self.ctx.assume(substitute(wanted, {f"?{unknown[0]}": solution}), "==", equation.actual)
        if solution is None or (isinstance(solution, int) and solution < 0):
            raise self._no_solution(equation, wanted, unknown[0])
        frame.env[unknown[0]] = solution
        return True

    def _no_solution(self, equation: _Equation, wanted: Dim, name: str) -> Mistake:
        """Why `wanted` can't be the dim it meets, whatever whole number the unknown is."""
        told = f"{equation.text()} == {equation.actual}"
        linear = linear_in(wanted, f"?{name}")
        if linear is None:
            return self._unsolvable(equation)
        whole = mod(equation.actual - linear[1], linear[0])
        if self.ctx.same(whole, 0) is not None:
            given = Given(None, equation.tensor, equation.span)
            found, note = show_type(equation.tensor.type), f"no size {name} makes {told}"
            return self._wrong(equation.name, equation.declared, given, found, (note,))
        given = Given(None, equation.tensor, equation.span)
        labels = self._labels(given, show_type(equation.tensor.type), equation.declared)
        where = f"only then is there a size {name} with {told}"
        settling = self.ctx.settling(whole, 0)
        return Mistake(errors.cannot_prove(str(whole), "0", labels, where, settling))

    def _unsolvable(self, equation: _Equation) -> Mistake:
        names = sorted({n for n in _names(equation.expr) if self.is_free(n)})
        told = f"{equation.text()} == {equation.actual}"
        given = Label(equation.span, show_type(equation.tensor.type), primary=False)
        example = f"{self.frame.name}[{names[0]}=...]"
        return Mistake(errors.open_dim(names, told, equation.expr.span, given, example))

    def _check(self, equation: _Equation, wanted: Dim) -> None:
        same = self.ctx.same(wanted, equation.actual)
        if same is True:
            return
        given = Given(None, equation.tensor, equation.span)
        found = show_type(equation.tensor.type)
        if same is None:
            labels = self._labels(given, found, equation.declared)
            told = equation.name
            if self.what == "argument":
                told = f"the argument `{told}` of {self.frame.name}"
            where = f"dim {equation.axis} of {told}"
            settling = self.ctx.settling(wanted, equation.actual)
            left, right = str(wanted), str(equation.actual)
            help = f"declare it as it is: -> {found}" if self.what == "result of" else None
            raise Mistake(errors.cannot_prove(left, right, labels, where, settling, help))
        note = f"dim {equation.axis} differs ({wanted} and {equation.actual})"
        names = [n for n in sorted(_names(equation.expr)) if n in self.frame.env]
        # A model's dynamic dims are what they are called.
        known = [
            f"{n} is {self.frame.env[n]}{self._since(n)}"
            for n in names
            if str(self.frame.env[n]) != n
        ]
        raise self._wrong(equation.name, equation.declared, given, found, (note, *known))

    def _labels(self, given: Given, found: str, declared: ast.TypeExpr) -> list[Label]:
        told = found
        if isinstance(given.thing, Tensor):
            told = f"{found}, {given.thing.note.words}"
        return [Label(given.span, told), Label(declared.span, "declared here", primary=False)]

    def _wrong(
        self,
        name: str,
        written: ast.TypeExpr,
        given: Given,
        found: str,
        notes: Sequence[str],
        help: str | None = None,
    ) -> Mistake:
        wanted = self._wanted(written)
        main, declared = self._labels(given, found, written)
        if isinstance(given.thing, TupleOf) and isinstance(written, ast.TensorTypeExpr):
            help = element_help(given.span.text, _likely(given.thing, wanted, written))
            if self.what == "result of" and _is_listed(given.span.text):
                help = f"declare all of them: -> {describe(given.thing).removeprefix('a tuple ')}"
        if self.what != "argument":
            return Mistake(errors.declared_type(name, wanted, found, main, declared, notes, help))
        name = f"`{name}` of {self.frame.name}"
        return Mistake(errors.argument_type(name, wanted, found, main, declared, notes, help))

    def _wanted(self, written: ast.TypeExpr) -> str:
        return " ".join(written.span.text.split())


def _is_listed(text: str) -> bool:
    """Whether a tuple is written out, `a, b`: a comma stands outside of all brackets in it."""
    inner = text[1:-1] if text[:1] == "(" and text[-1:] == ")" else text
    while inner != (inner := re.sub(r"\([^()\[\]]*\)|\[[^()\[\]]*\]", "", inner)):
        pass
    return "," in inner


def _likely(given: TupleOf, wanted: str, written: ast.TensorTypeExpr) -> int:
    """Which element is probably meant: the first of the type, else of its rank, else the first."""
    tensors = [(i, e.type) for i, e in enumerate(given.elements) if isinstance(e, Tensor)]
    same = [i for i, type in tensors if show_type(type) == wanted]
    alike = [i for i, type in tensors if type.rank == len(written.dims)]
    return [*same, *alike, 0][0]


def _other_dims_help(
    wanted: Sequence[Thing], origin: DimOrigin | None, given: Given, tensor: Tensor
) -> str | None:
    """What makes one dim less of a tensor: a last dim of 1, or classes as one-hot."""
    dims, text = tensor.type.dims, given.span.text
    if dims == (*wanted, 1):
        return f"leave the last dim out: {text}[..., 0]"
    if origin is not None and dims == origin.type.dims and not is_float(tensor.type.dtype):
        return f"if it is one-hot, its classes are argmax[axis=-1]({text})"
    return None


def _dtype_help(wanted: str, given: Given, tensor: Tensor, what: str) -> str | None:
    """How the dtype is changed: by a cast, or where the value was declared."""
    dtype = "f32" if wanted == "float" else wanted
    changed = f"cast[{dtype}]({given.span.text})"
    note = tensor.note
    declared_here = note.words.startswith(("the input", "the argument"))
    if what == "argument" and declared_here and note.span.file is given.span.file:
        declared = show_type(TensorType(dtype, tensor.type.dims))  # type: ignore[arg-type]
        return f"declare it so, {note.span.text}: {declared}, or cast it: {changed}"
    return f"cast it: {changed}"


def could_be(written: ast.TypeExpr, thing: Thing) -> bool:
    """Whether a value has the dtype and the number of dims of a type, whatever the sizes."""
    if not isinstance(written, ast.TensorTypeExpr) or not isinstance(thing, Tensor):
        return False
    word, dtype = written.dtype.name, thing.type.dtype
    spreads = sum(isinstance(dim, ast.Spread) for dim in written.dims)
    least = len(written.dims) - spreads
    fits = thing.type.rank >= least if spreads else thing.type.rank == least
    return fits and (is_float(dtype) if word == "float" else word == dtype)


def _count(dims: int) -> str:
    return "one dim is" if dims == 1 else f"{dims} dims are"


def _names(expr: ast.Expr) -> set[str]:
    called = {
        n.function.name
        for n in ast.walk(expr)
        if isinstance(n, ast.Call) and isinstance(n.function, ast.Name)
    }
    return {n.name for n in ast.walk(expr) if isinstance(n, ast.Name)} - called


def _solve(ctx: Context, wanted: Dim, unknown: str, actual: Dim) -> Dim | None:
    """The value of `unknown` with `wanted == actual`, where `wanted` is linear in it."""
    linear = linear_in(wanted, unknown)
    if linear is None or ctx.same(mod(actual - linear[1], linear[0]), 0) is not True:
        return None
    return floordiv(actual - linear[1], linear[0])
