"""Blocks of vision nets give what PyTorch's modules give; the names are torchvision's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, program, torch
from library.vision_modules import (
    Block,
    ConvNorm,
    InvertedResidual,
    PatchEmbedding,
    ResNet,
    SqueezeExcite,
    random_weights,
)

from dslc.ir.evaluate import run_entry

F = torch.nn.functional

pytestmark = pytest.mark.torch

VISION = """from std.vision import (
    basic_block, bottleneck, resnet, conv_norm, inverted_residual, squeeze_excite, patch_embedding,
)"""


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        ("basic_block[4]", lambda: Block(4, 4)),
        ("basic_block[6, stride=2]", lambda: Block(4, 6, 2)),
        ("bottleneck[2, expansion=2]", lambda: Block(4, 4, 1, 2)),
        ("bottleneck[2, stride=2]", lambda: Block(4, 8, 2, 2)),
        (
            "bottleneck[4, stride=2, groups=2, base_width=32]",
            lambda: Block(4, 16, 2, 4, 2),
        ),
        ("conv_norm[6]", lambda: ConvNorm(4, 6, 3)),
        (
            "conv_norm[6, kernel=1, stride=2, groups=2, act=silu]",
            lambda: ConvNorm(4, 6, 1, 2, 2, F.silu),
        ),
        ("inverted_residual[4]", lambda: InvertedResidual(4, 4)),
        ("inverted_residual[6, stride=2, expand=3]", lambda: InvertedResidual(4, 6, 2, 3)),
        ("inverted_residual[4, expand=1]", lambda: InvertedResidual(4, 4, 1, 1)),
        ("inverted_residual[4, squeeze=2]", lambda: InvertedResidual(4, 4, squeeze=2)),
        ("squeeze_excite[2]", lambda: SqueezeExcite(4, 2)),
        (
            "squeeze_excite[3, act=silu, gate=hardsigmoid]",
            lambda: SqueezeExcite(4, 3, F.silu, F.hardsigmoid),
        ),
        ("patch_embedding[6, patch=4]", lambda: PatchEmbedding(4, 6, 4)),
    ],
)
def test_blocks(layer: str, module: Any) -> None:
    torch.manual_seed(1)
    made = random_weights(module())
    check(f"x |> l: {layer}", {"x": numbers(2, 4, 8, 12)}, made, imports=VISION, atol=3e-5)


def test_resnet() -> None:
    torch.manual_seed(1)
    check(
        "x |> l: resnet[basic_block, (1, 2, 1, 1), classes=5]",
        {"x": numbers(2, 3, 64, 64)},
        random_weights(ResNet((1, 2, 1, 1), 5)),
        imports=VISION,
        differentiable=False,
    )


def test_boxes_of_a_plane_are_its_values_at_their_places() -> None:
    """Bilinear reads of a plane are exact, and the mean of four is that between them."""
    rows, columns = np.mgrid[:9, :12].astype(np.float32)
    x = np.stack([3 * rows + columns, rows - 2 * columns])[:, None]
    boxes, image = np.array([[2.5, 1.5, 8.5, 7.5]], np.float32), np.array([1])
    text = """
        from std.vision import roi_align
        model M(x: f32[N, 1, 9, 12], boxes: f32[R, 4], image: i64[R]) -> f32[R, 1, 2, 3] {
            return roi_align[(2, 3), aligned=true](x, boxes, image)
        }
    """
    inputs = {"x": x, "boxes": boxes, "image": image}
    outputs, _ = run_entry(program(text), "forward", {}, inputs)
    # Parts of 3 rows and 2 columns, from pixel 1 and 2 on.
    wanted = np.array([[2.5], [5.5]]) - 2 * np.array([3.0, 5.0, 7.0])
    np.testing.assert_allclose(outputs["output"], wanted[None, None], rtol=1e-6)
