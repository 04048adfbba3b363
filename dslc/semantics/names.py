"""What each name of a file refers to, by the text alone: for an editor, and for broken files too.

Input: the module of a file with its tree, the prelude, and what the checker found out (which layer
an instance is of, so that `net.weight` and `net(tokens=x)` refer to something). Output: `Names`.
A name's meaning follows `resolve.py`: bound in the function, declared or imported in the file,
of the library, built in. Non-goals: errors; a name that refers to nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.semantics.references import References, Things
from dslc.semantics.scope import Module, is_missing
from dslc.semantics.symbols import Kind, Names, Scope, Symbol
from dslc.syntax import ast

_REDUCTIONS = frozenset({"sum", "max", "min", "mean", "prod", "any", "all"})


def names_of(module: Module, prelude: Module, things: Things) -> Names:
    """Every name of a module's tree with what it refers to."""
    walker = _Walker(module, prelude, things)
    for decl in module.tree.decls if module.tree else ():
        walker.declaration(decl)
        walker.references.settle()
    found = sorted(walker.references.occurrences, key=lambda o: (o.span.start, o.span.end))
    return Names(tuple(found), walker.scope)


class _Walker:
    """One walk over the tree of a file; uses are settled when all bindings around are known."""

    def __init__(self, module: Module, prelude: Module, things: Things) -> None:
        self.module = module
        self.references = References(module, prelude, things)
        self.scope = Scope(0, len(module.source.text))
        # The scope of the entry of each model that is trained.
        self.forward: dict[str, Scope] = {}

    # --- declarations -------------------------------------------------------------------------

    def declaration(self, decl: ast.Decl) -> None:
        match decl:
            case ast.FnDecl() | ast.LayerDecl():
                self.references.say(
                    decl.name.span, self.references.of(self.module, decl), binds=True
                )
                scope = self.scope.nested(decl.span)
                self.statics(decl.statics, decl, scope)
                self.arguments(decl.args, decl.result, decl, scope)
                self.block(decl.body, scope)
            case ast.ModelDecl():
                self.model(decl)
            case ast.ConstDecl():
                self.references.say(
                    decl.name.span, self.references.of(self.module, decl), binds=True
                )
                self.expression(decl.value, self.scope)
            case ast.TrainDecl():
                self.train(decl)
            case ast.WeightsDecl():
                self.references.use(decl.name.name, decl.name.span, self.scope)
                for rule in decl.rules:
                    self.pattern(rule.pattern, decl.name)
            case ast.Import():
                self.import_module(decl)
            case ast.FromImport():
                self.import_names(decl)

    def model(self, decl: ast.ModelDecl) -> None:
        self.references.say(decl.name.span, self.references.of(self.module, decl), binds=True)
        scope = self.scope.nested(decl.span)
        self.statics(decl.statics, decl, scope)
        inner: dict[int, Scope] = {}
        for entry in decl.entries:
            inside = inner[id(entry)] = scope.nested(entry.span)
            if not decl.short:
                symbol = Symbol(entry.name.name, "entry", entry.name.span, entry)
                self.references.say(entry.name.span, symbol, binds=True)
            self.arguments(entry.args, entry.result, entry, inside, dims=scope)
            self.forward.setdefault(decl.name.name, inside)
            if entry.name.name == "forward":
                self.forward[decl.name.name] = inside
        self.block(decl.body, scope)
        for entry in decl.entries:
            self.block(entry.body, inner[id(entry)])

    def train(self, decl: ast.TrainDecl) -> None:
        self.references.use(decl.name.name, decl.name.span, self.scope)
        scope = self.scope.nested(decl.span)
        around: Scope | None = self.forward.get(decl.name.name)
        while around is not None and around is not self.scope:
            for name, known in around.names.items():
                seen = [s for _, s in known if s.kind in ("static", "argument", "dim")]
                if seen:
                    scope.names.setdefault(name, [(decl.span.start, seen[0])])
            around = around.parent
        model = self.module.decls.get(decl.name.name)
        if isinstance(model, ast.ModelDecl) and model.entries:
            entry = next((e for e in model.entries if e.name.name == "forward"), model.entries[0])
            output = Symbol("output", "output", entry.result.span, entry)
            scope.names.setdefault("output", [(decl.span.start, output)])
        for item in decl.items:
            match item:
                case ast.TrainInput():
                    self.type(item.type, scope, dims=scope)
                    self.bind(item.name, "input", item, scope, item.span.end)
                case ast.Metric():
                    metric = Symbol(item.name.name, "metric", item.name.span, item)
                    self.references.say(item.name.span, metric, binds=True)
                    self.expression(item.value, scope)
                case ast.Assign():
                    self.statement(item, scope)
                case _:
                    self.parts(item, scope)
            for node in ast.children(item):
                if isinstance(node, ast.Selection):
                    for pattern in (*node.patterns, *node.exceptions):
                        self.pattern(pattern, decl.name)

    def pattern(self, pattern: ast.Pattern, model: ast.Ident) -> None:
        self.references.patterns.append((pattern, self.module.decls.get(model.name)))

    def import_module(self, decl: ast.Import) -> None:
        name = decl.alias.name if decl.alias is not None else str(decl.module)
        target = self.module.modules.get(name)
        if target is None:
            return
        symbol = self.references.of_module(target)
        self.references.say(decl.module.span, symbol)
        if decl.alias is not None:
            self.alias(decl.alias, symbol)

    def alias(self, name: ast.Ident, target: Symbol) -> None:
        symbol = Symbol(name.name, "alias", name.span, target.node, target=target)
        self.scope.names.setdefault(name.name, [(0, symbol)])
        self.references.say(name.span, symbol, binds=True)

    def import_names(self, decl: ast.FromImport) -> None:
        for item in decl.names:
            local = item.alias or item.name
            target, original = self.module.imported.get(local.name, (None, ""))
            if target is None or is_missing(target):
                continue
            if item is decl.names[0]:
                self.references.say(decl.module.span, self.references.of_module(target))
            found = target.lookup(original)
            if not isinstance(found, tuple):
                continue
            symbol = self.references.of(*found)
            self.references.say(item.name.span, symbol)
            if item.alias is not None:
                self.alias(item.alias, symbol)

    # --- signatures ---------------------------------------------------------------------------

    def statics(self, params: Sequence[ast.StaticParam], owner: ast.Node, scope: Scope) -> None:
        for param in params:
            if param.default is not None:
                self.expression(param.default, scope)
            self.bind(param.name, "static", param, scope, param.span.end, owner)

    def arguments(
        self,
        args: Sequence[ast.Arg],
        result: ast.TypeExpr,
        owner: ast.Node,
        scope: Scope,
        dims: Scope | None = None,
    ) -> None:
        for arg in args:
            self.type(arg.type, scope, dims=dims or scope)
        for arg in args:
            if arg.default is not None:
                self.expression(arg.default, scope)
            self.bind(arg.name, "argument", arg, scope, arg.span.end, owner)
        self.type(result, scope, dims=dims or scope)

    def type(self, written: ast.TypeExpr, scope: Scope, dims: Scope | None = None) -> None:
        """A type; in a signature its free names are dims bound in the scope `dims`."""
        if isinstance(written, ast.TupleTypeExpr):
            for element in written.elements:
                self.type(element, scope, dims)
            return
        self.references.use(written.dtype.name, written.dtype.span, scope)
        for dim in written.dims:
            if dims is not None:
                self.free_dims(dim, scope, dims)
            match dim:
                case ast.Spread():
                    self.references.use(dim.name.name, dim.name.span, scope)
                case ast.BoundedDim():
                    self.references.use(dim.name.name, dim.name.span, scope)
                    self.expression(dim.low, scope)
                    self.expression(dim.high, scope)
                case _:
                    self.expression(dim, scope)

    def free_dims(self, dim: ast.DimExpr, scope: Scope, dims: Scope) -> None:
        called = {id(n.function) for n in ast.walk(dim) if isinstance(n, ast.Call)}
        for node in ast.walk(dim):
            name = node.name if isinstance(node, ast.Spread | ast.BoundedDim) else None
            if isinstance(node, ast.Name) and id(node) not in called:
                name = ast.Ident(node.span, node.name)
            if name is None or scope.find(name.name, name.span.start) is not None:
                continue
            top = self.module.lookup(name.name)
            if not (isinstance(top, tuple) and isinstance(top[1], ast.ConstDecl)):
                symbol = Symbol(name.name, "dim", name.span, dim)
                symbol.bindings.append((name.span.start, name.span))
                dims.names.setdefault(name.name, []).append((name.span.start, symbol))

    # --- statements ---------------------------------------------------------------------------

    def block(self, body: Sequence[ast.Stmt], scope: Scope) -> None:
        for stmt in body:
            self.statement(stmt, scope)

    def statement(self, stmt: ast.Stmt, scope: Scope) -> None:
        match stmt:
            case ast.ParamStmt() | ast.StateStmt():
                kind: Kind = "weight" if isinstance(stmt, ast.ParamStmt) else "state"
                self.parts(stmt, scope)
                self.bind(stmt.name, kind, stmt, scope, stmt.span.end)
            case ast.Assign():
                self.parts(stmt, scope)
                for target in stmt.targets:
                    self.bind(target, "local", stmt, scope, stmt.span.end)
            case ast.IndexAssign():
                inner = scope.nested(stmt.span)
                for index in stmt.indices:
                    self.bind(index, "index", stmt, inner, index.span.start)
                self.parts(stmt, inner)
                self.bind(stmt.target, "local", stmt, scope, stmt.span.end)
            case ast.NextState():
                self.references.use(stmt.name.name, stmt.name.span, scope)
                self.expression(stmt.value, scope)
            case ast.If():
                self.expression(stmt.condition, scope)
                self.block(stmt.then, scope)
                self.block(stmt.orelse, scope)
            case ast.For():
                self.expression(stmt.start, scope)
                self.expression(stmt.stop, scope)
                self.bind(stmt.variable, "local", stmt, scope, stmt.variable.span.start)
                self.block(stmt.body, scope)
            case _:
                self.parts(stmt, scope)

    def parts(self, node: ast.Node, scope: Scope) -> None:
        """The types and expressions directly under a node."""
        for child in ast.children(node):
            if isinstance(child, ast.TensorTypeExpr | ast.TupleTypeExpr):
                self.type(child, scope)
            elif not isinstance(child, ast.Ident | ast.Pattern | ast.Selection):
                self.expression(child, scope)

    # --- expressions --------------------------------------------------------------------------

    def expression(self, expr: ast.Node, scope: Scope) -> None:
        match expr:
            case ast.Name():
                self.references.use(expr.name, expr.span, scope)
            case ast.Attribute():
                self.references.paths.append(expr)
                self.expression(expr.value, scope)
            case ast.Subscript():
                self.expression(expr.value, scope)
                self.items(expr.value, expr.items, scope, static=True)
            case ast.Call():
                inner = self.reduction(expr, scope)
                self.expression(expr.function, inner)
                self.items(expr.function, expr.args, inner, static=False)
            case ast.Pipe():
                self.pipe(expr, scope)
            case ast.Scan():
                self.scan(expr, scope)
            case ast.Spread():
                self.references.use(expr.name.name, expr.name.span, scope)
            case _:
                self.parts(expr, scope)

    def items(
        self, function: ast.Expr, items: Sequence[ast.Node], scope: Scope, *, static: bool
    ) -> None:
        for item in items:
            if isinstance(item, ast.Argument):
                if item.name is not None:
                    self.references.labels.append((item.name, function, static))
                self.expression(item.value, scope)
            else:
                self.expression(item, scope)

    def pipe(self, expr: ast.Pipe, scope: Scope) -> None:
        stages: list[ast.Pipe] = []
        inner: ast.Expr = expr
        while isinstance(inner, ast.Pipe):
            stages.append(inner)
            inner = inner.value
        self.expression(inner, scope)
        for stage in reversed(stages):
            if stage.name is not None:
                self.stage_name(stage.name, stage, scope)
            self.expression(stage.function, scope)
            self.items(stage.function, stage.args, scope, static=False)

    def stage_name(self, name: ast.Ident, stage: ast.Pipe, scope: Scope) -> None:
        """The name of a stage stands for its instance from there on, unless it was another's."""
        known = self.references.look_up(name.name, name.span.start, scope)
        if known is None or known.kind == "instance":
            self.bind(name, "instance", stage, scope, stage.span.end)
            return
        symbol = Symbol(name.name, "instance", name.span, stage)
        self.references.say(name.span, symbol, binds=True)

    def scan(self, expr: ast.Scan, scope: Scope) -> None:
        for option in expr.options:
            self.expression(option.value, scope)
        for element in expr.elements:
            self.expression(element.tensor, scope)
        self.expression(expr.axis, scope)
        inner = scope.nested(expr.span)
        for carry in expr.carries:
            self.expression(carry.initial, scope)
        begins = expr.carries[-1].span.end if expr.carries else expr.axis.span.end
        for element in expr.elements:
            self.bind(element.name, "local", element, inner, begins)
        for carry in expr.carries:
            self.bind(carry.name, "local", carry, inner, begins)
        self.block(expr.body, inner)

    def reduction(self, call: ast.Call, scope: Scope) -> Scope:
        """`sum[c, k](...)` in index notation binds its indices: names that nothing else is."""
        function = call.function
        if not (isinstance(function, ast.Subscript) and isinstance(function.value, ast.Name)):
            return scope
        if function.value.name not in _REDUCTIONS or not self.indices_around(scope):
            return scope
        inner = scope.nested(call.span)
        for item in function.items:
            if isinstance(item, ast.Argument) and isinstance(item.value, ast.Name):
                name = item.value
                self.bind(ast.Ident(name.span, name.name), "index", call, inner, name.span.start)
            elif isinstance(item, ast.BoundedDim):
                self.bind(item.name, "index", call, inner, item.name.span.start)
        return inner

    def indices_around(self, scope: Scope | None) -> bool:
        while scope is not None:
            if any(s.kind == "index" for known in scope.names.values() for _, s in known):
                return True
            scope = scope.parent
        return False

    # --- what names are -----------------------------------------------------------------------

    def bind(
        self,
        name: ast.Ident,
        kind: Kind,
        node: ast.Node,
        scope: Scope,
        begins: int,
        owner: ast.Node | None = None,
    ) -> None:
        """A binding joins the symbol that has the name; a weight or state is one of its own."""
        known = scope.own(name.name, name.span.start)
        if known is None or (kind in ("weight", "state") and known.kind != kind):
            known = Symbol(name.name, kind, name.span, node, owner)
            scope.names.setdefault(name.name, []).append((begins, known))
        known.bindings.append((begins, name.span))
        self.references.say(name.span, known, binds=True)
