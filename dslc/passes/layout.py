"""Lets convolutions and pools work on NHWC images, as the kernels want them.

Input: a Function whose image ops are NCHW. Output: one whose image ops are NHWC, with transposes
where a value must be in the other order. What stands between image ops (element-wise ops,
broadcasts, reductions, pads, slices, concats) follows its inputs, so that transposes remain only
at the ends: at parameters, reshapes and results.
A function without convolutions stays as it is: transposing would cost more than it saves.
Non-goals: weights, which stay OIHW (packing them is the lowering's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, TypeVar

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.op import Attrs, Op
from dslc.ir.rewrite import drop_dead, map_bodies
from dslc.ops import conv, pool, reduce, shape, slicing
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import constant, relabel

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
# Where each axis of NCHW stands in NHWC.
PLACE = (0, 3, 1, 2)

# Which inputs are images, and whether the result is one.
IMAGE_OPS: Mapping[Op, tuple[tuple[int, ...], bool]] = {
    conv.conv2d: ((0,), True),
    conv.conv2d_input_gradient: ((0,), True),
    conv.conv2d_weight_gradient: ((0, 1), False),
    pool.max_pool2d: ((0,), True),
    pool.max_pool2d_gradient: ((0, 1, 2), True),
    pool.avg_pool2d: ((0,), True),
    pool.avg_pool2d_gradient: ((0,), True),
}
CONVOLUTIONS = (conv.conv2d, conv.conv2d_input_gradient, conv.conv2d_weight_gradient)
REDUCTIONS = (
    reduce_sum,
    reduce.reduce_max,
    reduce.reduce_min,
    reduce.reduce_prod,
    reduce.reduce_any,
    reduce.reduce_all,
)
T = TypeVar("T")


def layout(function: Function) -> Function:
    function = map_bodies(function, layout)
    if not any(eqn.op in CONVOLUTIONS and _is_nchw(eqn.attrs) for eqn in function.eqns):
        return function
    walk = _Walk(Builder.over(function), {p: p for p in function.params})
    for eqn in function.eqns:
        with walk.b.at(eqn.origin):
            walk.convert(eqn)
    results = [walk.nchw(result) for result in function.results]
    return drop_dead(walk.b.function(function.name, results))


def _is_nchw(attrs: Any) -> bool:
    return getattr(attrs, "layout", None) == "NCHW"


def _permuted(items: tuple[T, ...]) -> tuple[T, ...]:
    """Four things in the order NCHW, in the order NHWC."""
    return tuple(items[axis] for axis in TO_NHWC)


@dataclass(slots=True)
class _Walk:
    """Old values and what stands for them now, in one order or both.

    A value gets its second form when something first asks for it; what is made of images
    (`native`) goes on as images.
    """

    b: Builder
    plain: dict[Value, Value]
    images: dict[Value, Value] = field(default_factory=dict)
    native: set[Value] = field(default_factory=set)
    producers: dict[Value, Eqn] = field(default_factory=dict)

    def nchw(self, old: Value) -> Value:
        """The value in the order it had."""
        if old not in self.plain:
            self.plain[old] = shape.transpose(self.b, self.images[old], perm=TO_NCHW)
        return self.plain[old]

    def nhwc(self, old: Value) -> Value:
        """The value with its channels last."""
        if old not in self.images:
            made = self.producers.get(old)
            if made is not None and made.op is broadcast:
                self.images[old] = self.broadcast(made)
            elif made is not None and made.op is constant:
                type = old.type.with_dims(_permuted(old.type.dims))
                self.images[old] = self._emit(made, type=type)
            else:
                self.images[old] = shape.transpose(self.b, self.plain[old], perm=TO_NHWC)
        return self.images[old]

    def convert(self, eqn: Eqn) -> None:
        self.producers.update(dict.fromkeys(eqn.outputs, eqn))
        if eqn.op in IMAGE_OPS and _is_nchw(eqn.attrs):
            self.image_op(eqn)
        elif not any(value in self.native for value in eqn.inputs) or not self.follow(eqn):
            outputs = self.b.copy(eqn, [self.nchw(value) for value in eqn.inputs])
            self.plain.update(zip(eqn.outputs, outputs))

    def image_op(self, eqn: Eqn) -> None:
        images, gives_image = IMAGE_OPS[eqn.op]
        inputs = [self.nhwc(v) if i in images else self.nchw(v) for i, v in enumerate(eqn.inputs)]
        (made,) = self.b.emit(eqn.op, inputs, _changed(eqn.attrs, layout="NHWC"))
        (old,) = eqn.outputs
        if gives_image:
            self.set_image(old, made)
        else:
            self.plain[old] = made

    def set_image(self, old: Value, made: Value) -> None:
        self.images[old] = made
        self.native.add(old)

    # --- ops that follow their inputs ---------------------------------------------------------

    def follow(self, eqn: Eqn) -> bool:
        """Converts an equation that can work on NHWC images; False when it can't."""
        old = eqn.outputs[0]
        if eqn.op in REDUCTIONS:
            self.plain[old] = self.reduction(eqn)
            return True
        if old.type.rank != 4 or any(value.type.rank != 4 for value in eqn.inputs):
            return False
        if eqn.op is broadcast:
            self.set_image(old, self.broadcast(eqn))
            return True
        changes = _follow_attrs(eqn)
        if changes is None:
            return False
        self.set_image(old, self._emit(eqn, **changes))
        return True

    def _emit(self, eqn: Eqn, **changes: Any) -> Value:
        inputs = [self.nhwc(value) for value in eqn.inputs]
        return self.b.emit(eqn.op, inputs, _changed(eqn.attrs, **changes), eqn.origin)[0]

    def broadcast(self, eqn: Eqn) -> Value:
        """The broadcast to four dims, made with the channels last."""
        attrs: Any = eqn.attrs
        places = [PLACE[axis] for axis in attrs.axes]
        order = tuple(sorted(range(len(places)), key=places.__getitem__))
        (source,) = eqn.inputs
        if order == TO_NHWC:
            value = self.nhwc(source)
        elif order == tuple(range(len(order))):
            value = self.nchw(source)
        else:
            value = shape.transpose(self.b, self.nchw(source), perm=order)
        dims = _permuted(attrs.dims)
        made: Value = broadcast(self.b, value, dims=dims, axes=tuple(sorted(places)))
        return made

    def reduction(self, eqn: Eqn) -> Value:
        """The reduction over the same axes; what is left is put back in order."""
        attrs: Any = eqn.attrs
        axes = tuple(sorted(PLACE[axis] for axis in attrs.axes))
        reduced = self._emit(eqn, axes=axes)
        kept = [TO_NHWC[place] for place in range(4) if place not in axes]
        perm = tuple(sorted(range(len(kept)), key=kept.__getitem__))
        if perm == tuple(range(len(kept))):
            return reduced
        made: Value = shape.transpose(self.b, reduced, perm=perm)
        return made


def _follow_attrs(eqn: Eqn) -> dict[str, Any] | None:
    """What changes in the attributes of an equation over four dims; None when it can't follow."""
    attrs: Any = eqn.attrs
    if eqn.op is relabel:
        return {"dims": _permuted(attrs.dims)}
    if eqn.op.elementwise:
        return {}
    if eqn.op is shape.concat:
        return {"axis": PLACE[attrs.axis]}
    if eqn.op is slicing.slice_:
        return {name: _permuted(getattr(attrs, name)) for name in ("starts", "stops", "steps")}
    if eqn.op is slicing.pad:
        names = ("low", "high", "interior") if attrs.interior else ("low", "high")
        return {name: _permuted(getattr(attrs, name)) for name in names}
    return None


def _changed(attrs: Attrs, **changes: Any) -> Attrs:
    return replace(attrs, **changes) if changes else attrs  # type: ignore[type-var]
