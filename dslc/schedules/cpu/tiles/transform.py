"""A small constant matrix times vectors, with what its rows have in common computed once.

Rows that differ only in signs (values of a polynomial at a point and at its negative) are the sum
and the difference of two shorter rows. Columns that do (what values at both are worth) are those of
the sum and the difference of two vectors: large numbers cancel before they are rounded.

Input: numbers, and TIR vectors. Output: TIR vectors, bound in the builder's current scope.
Non-goals: choosing the matrices (Winograd's are where they are used).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import Expr, zeros

Matrix = tuple[tuple[float, ...], ...]


def transform(matrix: Matrix, vectors: Sequence[Expr], dtype: str, lanes: int) -> list[Expr]:
    """The product of `matrix` and the column of `vectors`."""
    matrix, vectors = _joined_columns(matrix, [T.bind(vector) for vector in vectors])
    work = _Work(vectors, dtype, lanes)
    return [work.row(row, matrix) for row in matrix]


def _joined_columns(matrix: Matrix, vectors: list[Expr]) -> tuple[Matrix, list[Expr]]:
    """The same product, of sums and differences where two columns differ in signs only."""
    columns, vectors = [*zip(*matrix)], list(vectors)
    for i, one in enumerate(columns):
        for j, other in enumerate(columns[i + 1 :], i + 1):
            pairs = list(zip(one, other))
            equal = any(a == b != 0 for a, b in pairs)
            if (
                equal
                and any(a == -b != 0 for a, b in pairs)
                and all(abs(a) == abs(b) for a, b in pairs)
            ):
                columns[i] = tuple(a if a == b else 0.0 for a, b in pairs)
                columns[j] = tuple(0.0 if a == b else a for a, b in pairs)
                total, difference = vectors[i] + vectors[j], vectors[i] - vectors[j]
                vectors[i], vectors[j] = T.bind(total), T.bind(difference)
                break
    return tuple(zip(*columns)), vectors


@dataclass(slots=True)
class _Work:
    vectors: list[Expr]
    dtype: str
    lanes: int
    done: dict[tuple[float, ...], Expr] = field(default_factory=dict)

    def row(self, row: tuple[float, ...], matrix: Matrix) -> Expr:
        """A row's sum of products."""
        for other in matrix:
            same = tuple(a if a == b else 0 for a, b in zip(row, other))
            opposite = tuple(a if a == -b else 0 for a, b in zip(row, other))
            halves = tuple(a or b for a, b in zip(same, opposite)) == row
            if other != row and halves and any(same) and any(opposite):
                return T.bind(self.joined(same, opposite))
        return self.sum(row)

    def joined(self, one: tuple[float, ...], other: tuple[float, ...]) -> Expr:
        """The sum of two rows' sums, a negative one subtracted."""
        negative = tuple(-a for a in other)
        if other not in self.done and negative in self.done:
            return self.sum(one) - self.done[negative]
        return self.sum(one) + self.sum(other)

    def sum(self, row: tuple[float, ...]) -> Expr:
        """The sum of products of a row alone."""
        if row not in self.done:
            terms = [(a, v) for a, v in zip(row, self.vectors) if a]
            terms.sort(key=lambda term: (-abs(term[0]), -term[0]))  # what is large cancels first
            total: Expr = None
            for factor, vector in terms:
                total = self.plus(total, factor, vector)
            self.done[row] = T.bind(zeros(self.dtype, self.lanes) if total is None else total)
        return self.done[row]

    def plus(self, total: Expr, factor: float, vector: Expr) -> Expr:
        if factor == 1:
            return vector if total is None else total + vector
        if factor == -1 and total is not None:
            return total - vector
        scaled = vector * tirx.Broadcast(tirx.const(float(factor), self.dtype), self.lanes)
        return scaled if total is None else total + scaled
