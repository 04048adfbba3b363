"""Index notation: `y[n, o] = sum[k](x[n, k] * w[k, o])`, from syntax to IR.

The right side is evaluated like any expression, over scalars, into a function of its own: an index,
and an element read from a tensor, are its parameters (`scalars.py`). Then the ranges of the indices
are known and the reads are proven to be inside (`ranges.py`), indices known by quotients are split
(`splitting.py`), and each scalar becomes a tensor with an axis for each index that it depends on
(`lowering.py`, with what positions are in `affine.py`). Sums of products become matrix products
(`contraction.py`) or convolutions (`convolution.py`) where they are some. `statement.py` puts these
together.
"""
