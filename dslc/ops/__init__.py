"""Every op the compiler knows, one file per family, and how the language names them.

`ALL` holds the records in the order of the families, `BY_NAME` finds them (the IR's parser is given
it), `SURFACES` are the built-in functions of `.dl` and `OPERATORS` its operators.
"""

from __future__ import annotations

from dslc.ir.op import Op, Surface
from dslc.ops import (
    attention,
    broadcast,
    constants,
    conv,
    elementwise,
    index,
    linalg,
    logic,
    packed,
    pairs,
    parts,
    placing,
    pool,
    random,
    ranking,
    reads,
    recurrent,
    reduce,
    segments,
    shape,
    slicing,
    strassen,
    surface_math,
    surface_numbers,
    surface_primitives,
    surface_tensor,
    transcendental,
    winograd,
)

ALL: tuple[Op, ...] = (
    *constants.OPS,
    *logic.OPS,
    *elementwise.OPS,
    *transcendental.OPS,
    *broadcast.OPS,
    *shape.OPS,
    *slicing.OPS,
    *reduce.OPS,
    *linalg.OPS,
    *conv.OPS,
    *packed.OPS,
    *winograd.OPS,
    *strassen.OPS,
    *parts.OPS,
    *pairs.OPS,
    *pool.OPS,
    *index.OPS,
    *segments.OPS,
    *placing.OPS,
    *reads.OPS,
    *ranking.OPS,
    *random.OPS,
    *recurrent.OPS,
    *attention.OPS,
)
BY_NAME: dict[str, Op] = {op.name: op for op in ALL}
SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        *surface_math.SURFACES,
        *surface_tensor.SURFACES,
        *surface_numbers.SURFACES,
        *surface_primitives.SURFACES,
    )
}
OPERATORS: dict[str, Surface] = surface_math.OPERATORS
