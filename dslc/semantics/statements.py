"""Statements: what they bind, declare, unroll and demand.

Input: a body and a `Context`; a mistake is reported and the next statement follows. Output: the
frame's names and result. Non-goals: `scan` (`scans.py`), index notation (`formulas/`).
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.diagnostics import Diagnostic, Label, unreachable
from dslc.ir.core import DimCheck, Message, message_text
from dslc.ir.dims import Dim, Poly
from dslc.semantics import errors, habits, instances, scans
from dslc.semantics.context import Context, Mistake, Silent, Undecidable
from dslc.semantics.expressions import decide, evaluate
from dslc.semantics.formulas.statement import assign_formula
from dslc.semantics.signature import Matcher
from dslc.semantics.values import (
    BAD,
    Bad,
    Given,
    Tensor,
    Thing,
    TupleOf,
    Unknown,
    describe,
)
from dslc.semantics.written import as_declared
from dslc.source import Span
from dslc.syntax import ast

MOST_TURNS = 10_000


def execute(ctx: Context, body: Sequence[ast.Stmt]) -> None:
    """Run statements until one returns."""
    for stmt in body:
        if ctx.frame.result is not None:
            return
        before, wrong = len(ctx.reported), True
        try:
            _execute(ctx, stmt)
            # Told again in a second walk (training), a mistake is not reported twice.
            wrong = len(ctx.reported) > before
        except Mistake as mistake:
            ctx.report(mistake.diagnostic)
            _spoil(ctx, stmt)
        except Silent:
            _spoil(ctx, stmt)
        failed = isinstance(stmt, ast.Assert) or ctx.frame.module.library
        if failed and wrong:
            # What follows would complain about the same thing.
            ctx.frame.result = BAD


def _spoil(ctx: Context, stmt: ast.Stmt) -> None:
    """What a wrong statement would have bound is `BAD`, so that nothing else complains."""
    match stmt:
        case ast.Assign():
            for target in stmt.targets:
                ctx.frame.env[target.name] = BAD
        case ast.ParamStmt() | ast.StateStmt():
            ctx.frame.env[stmt.name.name] = BAD
        case ast.IndexAssign():
            ctx.frame.env[stmt.target.name] = BAD
        case ast.If() | ast.For():
            blocks = (stmt.then, stmt.orelse) if isinstance(stmt, ast.If) else (stmt.body,)
            for block in blocks:
                for inner in block:
                    _spoil(ctx, inner)
        case ast.Return():
            ctx.frame.result = BAD
        case ast.NextState() | ast.Yield() | ast.Assert():
            pass
        case _:
            unreachable(stmt)


def _execute(ctx: Context, stmt: ast.Stmt) -> None:
    match stmt:
        case ast.ParamStmt() | ast.StateStmt():
            ctx.bind(stmt.name, instances.declare(ctx, stmt))
        case ast.Assign():
            assign(ctx, stmt)
        case ast.NextState():
            instances.set_next(ctx, stmt)
        case ast.Return():
            if ctx.frame.scan is not None:
                raise Mistake(errors.return_in_scan(stmt.span))
            ctx.frame.result = evaluate(ctx, stmt.value)
            ctx.frame.result_span = stmt.value.span
        case ast.If():
            execute(ctx, stmt.then if decide(ctx, stmt.condition) else stmt.orelse)
        case ast.For():
            _for(ctx, stmt)
        case ast.Assert():
            check(ctx, stmt)
        case ast.IndexAssign():
            assign_formula(ctx, stmt)
        case ast.Yield():
            scans.yield_(ctx, stmt)
        case _:
            unreachable(stmt)


# --- binding ------------------------------------------------------------------------------------


def assign(ctx: Context, stmt: ast.Assign) -> None:
    """`x = value`, `a, b = value`, `y: type = value`."""
    if len(stmt.targets) > 1:
        _unpack(ctx, stmt)
        return
    target = stmt.targets[0]
    bound = _subscript_like(stmt.value)
    value = evaluate(ctx, stmt.value, target if bound else None)
    if stmt.type is not None and not isinstance(value, Bad):
        matcher = Matcher(ctx, ctx.frame, what="value of")
        given = Given(None, value, stmt.value.span)
        matcher.match(f"`{target.name}`", stmt.type, given)
        matcher.solve()
        value = as_declared(ctx, stmt.type, Given(target, value, stmt.value.span))
    ctx.bind(target, value)


def _subscript_like(expr: ast.Expr) -> bool:
    """Whether an instance made by the expression is bound to the target: `embed = embedding[V, D]`,
    not `y = dense[3](x)`."""
    match expr:
        case ast.Subscript():
            return True
        case ast.IfExpr():
            return _subscript_like(expr.then) or _subscript_like(expr.orelse)
    return False


def _unpack(ctx: Context, stmt: ast.Assign) -> None:
    parts = stmt.value.elements if isinstance(stmt.value, ast.Tuple) else ()
    if len(parts) == len(stmt.targets) and any(map(_subscript_like, parts)):
        _bind_each(ctx, stmt.targets, parts)
        return
    value = evaluate(ctx, stmt.value)
    if isinstance(value, Bad):
        raise Silent
    if isinstance(value, Poly) and ctx.choices is not None:
        raise Undecidable
    if not isinstance(value, TupleOf) or len(value.elements) != len(stmt.targets):
        names = [target.name for target in stmt.targets]
        targets = stmt.targets[0].span.to(stmt.targets[-1].span)
        count = len(value.elements) if isinstance(value, TupleOf) else 1
        help = habits.unpacking_help(stmt.value.span.text, len(names))
        found = errors.wrong_unpacking(
            names, describe(value), count, targets, stmt.value.span, help
        )
        raise Mistake(found)
    for target, element in zip(stmt.targets, value.elements):
        ctx.bind(target, element)


def _bind_each(ctx: Context, targets: Sequence[ast.Ident], parts: Sequence[ast.Expr]) -> None:
    """`embed, out = embedding[V, D], dense[V]`: each instance has its target's name."""
    pairs = list(zip(targets, parts))
    values = [evaluate(ctx, e, target if _subscript_like(e) else None) for target, e in pairs]
    for target, value in zip(targets, values):
        ctx.bind(target, value)


# --- loops --------------------------------------------------------------------------------------


def _for(ctx: Context, stmt: ast.For) -> None:
    start, stop = _end(ctx, stmt.start), _end(ctx, stmt.stop)
    if stop - start > MOST_TURNS:
        span = stmt.start.span.to(stmt.stop.span)
        raise Mistake(errors.range_too_long(stop - start, MOST_TURNS, span))
    frame = ctx.frame
    before = dict(frame.counts)
    for index in range(start, stop):
        ctx.step()
        frame.counts.clear()
        frame.counts.update(before)
        ctx.bind(stmt.variable, index)
        frame.indices = (*frame.indices, index)
        try:
            execute(ctx, stmt.body)
        finally:
            frame.indices = frame.indices[:-1]
        if frame.result is not None:
            return


def _end(ctx: Context, expr: ast.Expr) -> int:
    value = evaluate(ctx, expr)
    if isinstance(value, Bad):
        raise Silent
    if isinstance(value, Poly) and ctx.choices is not None:
        return 2  # a layer checked on its own: a few turns show what each does
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mistake(errors.bad_range(describe(value), expr.span))
    return value


# --- assertions ---------------------------------------------------------------------------------


def check(ctx: Context, stmt: ast.Assert) -> None:
    """`assert`: decided now, or told to the prover and checked at each call."""
    _demand(ctx, stmt, stmt.condition)


def _demand(ctx: Context, stmt: ast.Assert, condition: ast.Expr) -> None:
    if isinstance(condition, ast.Binary) and condition.op == "and":
        _demand(ctx, stmt, condition.left)
        _demand(ctx, stmt, condition.right)
        return
    if isinstance(condition, ast.Compare) and _about_dims(ctx, stmt, condition):
        return
    if isinstance(condition, ast.Binary) and ctx.choices is None:
        _check_alternatives(ctx, condition)
    held = evaluate(ctx, condition)
    if isinstance(held, Bad):
        raise Silent
    if isinstance(held, Tensor):
        notes = ["an assertion is about sizes and static parameters"]
        raise Mistake(errors.undecided(f"`{condition.span.text}`", condition.span, notes))
    if isinstance(held, TupleOf):
        raise Mistake(errors.parenthesised_assert(condition.span))
    if not isinstance(held, bool):
        if ctx.choices is not None:
            return
        raise Mistake(errors.not_static("a condition", describe(held), condition.span))
    if not held:
        # Checked on its own: other uses may give other numbers, where it names any.
        if ctx.choices is not None and not _fails_always(ctx, stmt):
            raise Undecidable
        raise Mistake(_failed(ctx, stmt, condition))


def _fails_always(ctx: Context, stmt: ast.Assert) -> bool:
    """Whether a failed condition is of numbers alone, and every call comes by."""
    code = ctx.frame.code
    named = any(isinstance(node, ast.Name) for node in ast.walk(stmt.condition))
    return code is not None and not named and any(stmt is one for one in code.decl.body)


def _check_alternatives(ctx: Context, condition: ast.Binary) -> None:
    """`a or b` over dynamic dims that are not decided: the prover takes no alternatives."""
    for part in (condition.left, condition.right):
        if isinstance(part, ast.Binary):
            _check_alternatives(ctx, part)
        elif isinstance(part, ast.Compare):
            a, b = _dim(evaluate(ctx, part.left)), _dim(evaluate(ctx, part.right))
            if a is not None and b is not None and ctx.prover.compare(a, part.op, b) is None:
                notes = ["over dims known at a call it is a comparison, or several joined by `and`"]
                what = f"the assertion `{condition.span.text}`"
                raise Mistake(errors.undecided(what, condition.span, notes))


def _about_dims(ctx: Context, stmt: ast.Assert, condition: ast.Compare) -> bool:
    """Handles a comparison with a dynamic dim, or with a number that only a use of the layer
    gives, which is taken to hold; False if it is neither."""
    left, right = evaluate(ctx, condition.left), evaluate(ctx, condition.right)
    if isinstance(left, Bad) or isinstance(right, Bad):
        raise Silent
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return True
    a, b = _dim(left), _dim(right)
    if a is None or b is None or not (isinstance(a, Poly) or isinstance(b, Poly)):
        return False
    answer = ctx.prover.compare(a, condition.op, b)
    if answer is False:
        raise Mistake(_failed(ctx, stmt, condition))
    if answer is None:
        ctx.assume(a, condition.op, b)
        message = _message(ctx, stmt, condition)
        if ctx.choices is None:
            ctx.checks.append(DimCheck(a, condition.op, b, message, ctx.entry))
    return True


def _dim(thing: Thing) -> Dim | None:
    return thing if isinstance(thing, int | Poly) and not isinstance(thing, bool) else None


def _failed(ctx: Context, stmt: ast.Assert, condition: ast.Expr) -> Diagnostic:
    names = [n.name for n in ast.walk(condition) if isinstance(n, ast.Name)]
    shown = [
        f"{n} is {ctx.frame.env[n]}"
        for n in dict.fromkeys(names)
        if n in ctx.frame.env and _dim(ctx.frame.env[n]) is not None and str(ctx.frame.env[n]) != n
    ]
    for name in dict.fromkeys(names):
        low, high = ctx.prover.bounds.get(name, (0, None))
        if high is not None and name in ctx.frame.env and str(ctx.frame.env[name]) == name:
            shown.append(f"{name} is in {low}..{high}")
    diagnostic = errors.assertion(
        message_text(_message(ctx, stmt, condition)), condition.span, shown
    )
    call, code = ctx.frame.call, ctx.frame.code
    alone = code is not None and call is code.decl.name.span
    if call is not None and not alone and not ctx.frame.module.library:
        return errors.with_label(diagnostic, Label(call, "called here", primary=False))
    return diagnostic


def _message(ctx: Context, stmt: ast.Assert, condition: ast.Expr) -> Message:
    """The message with the values of `{expression}` in it; dims known at a call stay dims."""
    if stmt.message is None:
        return (" ".join(condition.span.text.split()),)
    return tuple(
        part if isinstance(part, str) else _shown(evaluate(ctx, part), part.span)
        for part in stmt.message.parts
    )


def _shown(value: Thing, span: Span) -> str | Poly:
    match value:
        case Poly():
            return value
        case bool() | Tensor():
            return describe(value)
        case TupleOf(elements):
            return f"({', '.join(str(_shown(element, span)) for element in elements)})"
        case Bad():  # reported where it is written
            return f"{{{span.text}}}"
        case _:
            return str(value)
