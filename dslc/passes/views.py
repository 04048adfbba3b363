"""Lets what is computed from an image under other dims be computed from the image.

Two kinds of reshapes hide an image from `layout`, which follows values of four dims:

    lines    (N, C, 1, L) as (N, C, L), behind each convolution of sequences
    groups   (N, C, H, W) as (N, G, C / G * H * W), where channels are normalised in groups

Element-wise ops, reductions and what else can be done to the image itself is done to it, so that
the reshape back at the end meets the image and is no equation:

    conv(reshape(relu(reshape(conv(x)))))    becomes    conv(relu(conv(x)))

Input and output: a Function. A value in between is made as an image or as it was; the other form
is made when something asks for it, by a reshape, which costs nothing. What belongs to groups (a
mean) is repeated for their channels: more kernels, but small ones. A function without convolutions
stays as it is. Non-goals: the order in memory (`layout.py`), rows of products (`flatten.py`).
"""

from __future__ import annotations

from dataclasses import field, replace
from functools import partial
from typing import Any

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead, map_bodies
from dslc.ops import shape, slicing
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import constant, relabel
from dslc.passes.layout import CONVOLUTIONS, IMAGE_OPS, REDUCTIONS

Dims = tuple[Dim, ...]
MOVES = (shape.concat, slicing.slice_, slicing.pad)  # which keep an image one


def views(function: Function, groups: bool = True) -> Function:
    """`groups`: whether groups of channels become images, too."""
    function = map_bodies(function, partial(views, groups=groups))
    if not any(eqn.op in CONVOLUTIONS for eqn in function.eqns):
        return function
    walk = _Walk(Builder.over(function), groups, {p: p for p in function.params})
    for eqn in function.eqns:
        with walk.b.at(eqn.origin):
            walk.convert(eqn)
    if not walk.views:
        return function
    results = [walk.whole(result) for result in function.results]
    return drop_dead(walk.b.function(function.name, results))


@dataclass(frozen=True, slots=True)
class _View:
    """How a value stands for an image. `one`: the axis of the image, of size 1, that a line lacks;
    0 for groups, of which there are `groups`."""

    image: Dims
    one: int = 0
    groups: int = 0

    def place(self, axis: int) -> int:
        """Where the axis of a line is in its image."""
        return axis + (axis >= self.one)

    def lifted(self, items: Any, one: Any) -> tuple[Any, ...]:
        """What a line has for each axis, with what the image's further axis gets."""
        return (*items[: self.one], one, *items[self.one :])


def _view(image: Dims, dims: Dims) -> _View | None:
    """How a value of these dims, reshaped from an image, stands for it."""
    if len(image) != 4 or len(dims) != 3 or image[0] != dims[0]:
        return None
    for one in (2, 3):
        if image[one] == 1 and dims == (*image[:one], *image[one + 1 :]):
            return _View(image, one)
    channels, groups = image[1], dims[1]
    if isinstance(channels, int) and isinstance(groups, int) and groups and channels % groups == 0:
        return _View(image, groups=groups)
    return None


@dataclass(slots=True)
class _Walk:
    """Old values and what stands for them now: as they were (`plain`), or as an image (`images`,
    where `views` says how). `native`: what was made of images, four dims or not."""

    b: Builder
    groups: bool
    plain: dict[Value, Value]
    images: dict[Value, Value] = field(default_factory=dict)
    views: dict[Value, _View] = field(default_factory=dict)
    native: set[Value] = field(default_factory=set)
    makers: dict[Value, Eqn] = field(default_factory=dict)

    def whole(self, old: Value) -> Value:
        """The value with the dims it had."""
        if old not in self.plain:
            self.plain[old] = shape.reshape(self.b, self.images[old], dims=old.type.dims)
        return self.plain[old]

    def image(self, old: Value, view: _View) -> Value:
        """The value as an image; what costs nothing is made again."""
        if self.views.get(old) == view:
            return self.images[old]
        maker = self.makers.get(old)
        if maker is not None and maker.op is constant:
            return self._made(constant, [], maker, type=old.type.with_dims(view.image))
        if maker is not None and maker.op is broadcast:
            spread = self.spread(maker, view)
            if spread is not None:
                return spread
        return self._made(shape.reshape, [self.whole(old)], dims=view.image)

    def spread(self, eqn: Eqn, view: _View) -> Value | None:
        """A broadcast to a line or to groups, made to the image."""
        attrs: Any = eqn.attrs
        x = self.whole(eqn.inputs[0])
        wide = [place for place, dim in enumerate(x.type.dims) if dim != 1]
        axes = tuple(attrs.axes[place] for place in wide)
        if len(wide) < x.type.rank:
            x = self._made(shape.reshape, [x], dims=tuple(x.type.dims[place] for place in wide))
        if view.one:
            axes = tuple(map(view.place, axes))
        elif 2 in axes:
            return None
        elif 1 in axes:
            x = self.channels(x, view, axes.index(1))
        return self._made(broadcast, [x], dims=view.image, axes=axes)

    def channels(self, x: Value, view: _View, axis: int) -> Value:
        """A number for each group, along the axis, as one for each channel."""
        count: Any = view.image[1]
        before, after = x.type.dims[:axis], x.type.dims[axis + 1 :]
        apart = (*before, view.groups, count // view.groups, *after)
        axes = tuple(a for a in range(len(apart)) if a != axis + 1)
        repeated = self._made(broadcast, [x], dims=apart, axes=axes)
        return self._made(shape.reshape, [repeated], dims=(*before, count, *after))

    def _made(self, op: Op, inputs: list[Value], like: Eqn | None = None, **attrs: Any) -> Value:
        if like is None:
            made: Value = op(self.b, *inputs, **attrs)
            return made
        changed = replace(like.attrs, **attrs) if attrs else like.attrs  # type: ignore[type-var]
        return self.b.emit(op, inputs, changed, like.origin)[0]

    def convert(self, eqn: Eqn) -> None:
        self.makers.update(dict.fromkeys(eqn.outputs, eqn))
        view = next((self.views[v] for v in eqn.inputs if v in self.views), None)
        if eqn.op is shape.reshape and self.reshape(eqn, view):
            return
        if view is None or len(eqn.outputs) > 1 or not self.follow(eqn, view):
            outputs = self.b.copy(eqn, [self.whole(value) for value in eqn.inputs])
            self.plain.update(zip(eqn.outputs, outputs))
        follows = eqn.op.elementwise or eqn.op in MOVES
        if IMAGE_OPS.get(eqn.op, ((), False))[1] or (follows and self.native & set(eqn.inputs)):
            self.native.update(v for v in eqn.outputs if v.type.rank == 4)

    def reshape(self, eqn: Eqn, view: _View | None) -> bool:
        """Whether a reshape begins or ends a view: it is no equation then."""
        (x,), (out,) = eqn.inputs, eqn.outputs
        if view is not None and view.image == out.type.dims:
            self.plain[out] = self.images[x]
            self.native.add(out)
            return True
        if view is None and x not in self.native:
            return False
        found = _view(x.type.dims if view is None else view.image, out.type.dims)
        if found is None or (found.groups and not self.groups):
            return False
        self.set(out, self.whole(x) if view is None else self.images[x], found)
        return True

    def set(self, old: Value, made: Value, view: _View) -> None:
        self.images[old], self.views[old] = made, view

    def follow(self, eqn: Eqn, view: _View) -> bool:
        """Makes the equation of images; False when it can't be."""
        (out,) = eqn.outputs
        if eqn.op in REDUCTIONS:
            return self.reduction(eqn, view)
        if any(v.type.rank != 3 for v in (*eqn.inputs, out)):
            return False
        if view.one:
            found = _along_lines(eqn, view)
        else:
            found = (view, {}) if eqn.op.elementwise and eqn.op is not relabel else None
        if found is None:
            return False
        new, changes = found
        inputs = [self.image(v, _View(_image(v, view), view.one, view.groups)) for v in eqn.inputs]
        self.set(out, self._made(eqn.op, inputs, eqn, **changes), new)
        return True

    def reduction(self, eqn: Eqn, view: _View) -> bool:
        """A reduction of a line; of groups, over all that is in one."""
        attrs: Any = eqn.attrs
        (x,), (out,) = eqn.inputs, eqn.outputs
        image, axes = self.images[x], tuple(attrs.axes)
        if view.one:
            places = sorted({*map(view.place, axes), view.one})
            self.plain[out] = self._made(eqn.op, [image], eqn, axes=tuple(places))
            return True
        if 2 not in axes:
            return False
        if 1 in axes or view.groups == 1:
            axes = (*(a for a in axes if a < 1), 1, 2, 3)
            made = self._made(eqn.op, [image], eqn, axes=axes)
        else:
            n, channels = view.image[:2]
            assert isinstance(channels, int)
            made = self._made(eqn.op, [image], eqn, axes=(2, 3))
            apart = (n, view.groups, channels // view.groups)
            made = self._made(shape.reshape, [made], dims=apart)
            made = self._made(eqn.op, [made], eqn, axes=axes)
        self.plain[out] = self._made(shape.reshape, [made], dims=out.type.dims)
        return True


def _image(value: Value, view: _View) -> Dims:
    """The dims of the value as an image, of the same kind."""
    return view.lifted(value.type.dims, 1) if view.one else view.image


def _along_lines(eqn: Eqn, view: _View) -> tuple[_View, dict[str, Any]] | None:
    """The view of an equation's result that is made of the images of lines, and what changes in its
    attributes; None when it can't be."""
    attrs: Any = eqn.attrs
    new = _View(_image(eqn.outputs[0], view), view.one)
    if eqn.op is relabel:
        return new, {"dims": new.image}
    if eqn.op.elementwise:
        return new, {}
    if eqn.op is shape.concat:
        return new, {"axis": view.place(attrs.axis)}
    if eqn.op is slicing.slice_:
        ones = {"starts": 0, "stops": 1, "steps": 1}
        return new, {name: view.lifted(getattr(attrs, name), ones[name]) for name in ones}
    if eqn.op is slicing.pad:
        names = ("low", "high", "interior") if attrs.interior else ("low", "high")
        return new, {name: view.lifted(getattr(attrs, name), 0) for name in names}
    return None
