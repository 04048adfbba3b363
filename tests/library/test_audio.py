"""Fourier transforms and spectrograms are PyTorch's; mel bands those of torchaudio's and librosa's
formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, torch

import dslc
from dslc.diagnostics import CompileError

pytestmark = pytest.mark.torch

IMPORTS = "from std.audio import {}\n"


def spectrum(x: Any, size: int, hop: int, window: Any, **more: Any) -> Any:
    return torch.stft(x, size, hop, window=window(size), return_complex=True, **more)


@pytest.mark.parametrize(
    ("names", "call", "oracle"),
    [
        ("rfft", "rfft(x).0", lambda x: torch.fft.rfft(x).real),
        ("rfft", "rfft(x).1", lambda x: torch.fft.rfft(x).imag),
        ("rfft", "rfft(x[:, :36]).1", lambda x: torch.fft.rfft(x[:, :36]).imag),
        ("rfft, irfft", "irfft[37](rfft(x).0, 3 * rfft(x).1)", None),
        ("rfft, irfft", "irfft[37](rfft(x).1, rfft(x).0)", None),
        (
            "irfft",
            "irfft[20](x[:, :11], x[:, 11:22])",
            lambda x: torch.fft.irfft(torch.complex(x[:, :11], x[:, 11:22]), 20),
        ),
        ("frames", "frames[9, hop=5, center=false](x)", lambda x: x.unfold(-1, 9, 5)),
        ("stft", "stft[16](x).0", lambda x: spectrum(x, 16, 4, torch.hann_window).real),
        ("stft", "stft[15, hop=4](x).1", lambda x: spectrum(x, 15, 4, torch.hann_window).imag),
        (
            "stft, hamming",
            "stft[12, hop=5, window=hamming, center=false](x).1",
            lambda x: spectrum(x, 12, 5, torch.hamming_window, center=False).imag,
        ),
        (
            "spectrogram",
            "spectrogram[12](x)",
            lambda x: spectrum(x, 12, 6, torch.hann_window).abs() ** 2,
        ),
        (
            "spectrogram, rectangle",
            "spectrogram[12, hop=4, power=1.0, window=rectangle](x)",
            lambda x: spectrum(x, 12, 4, torch.ones).abs(),
        ),
    ],
)
def test_transforms(names: str, call: str, oracle: Callable[[Any], Any] | None) -> None:
    def back(x: Any) -> Any:
        f = torch.fft.rfft(x)
        moved = (
            torch.complex(f.real, 3 * f.imag) if "3 *" in call else torch.complex(f.imag, f.real)
        )
        return torch.fft.irfft(moved, 37)

    check(call, {"x": numbers(2, 37)}, oracle or back, imports=IMPORTS.format(names), atol=2e-5)


def filters(bins: int, mels: int, rate: int, low: float, high: float, slaney: bool) -> Any:
    """In f64, by interpolation between the edges of bands."""
    if slaney:

        def hertz(m: Any) -> Any:
            return np.where(m < 15, m * 200 / 3, 1000 * 6.4 ** ((m - 15) / 27))

        def mel(f: float) -> float:
            return 15 + 27 * np.log(f / 1000) / np.log(6.4) if f > 1000 else f * 0.015

    else:

        def hertz(m: Any) -> Any:
            return 700 * (10 ** (m / 2595) - 1)

        def mel(f: float) -> float:
            return float(2595 * np.log10(1 + f / 700))

    edges = hertz(np.linspace(mel(low), mel(high), mels + 2))
    at = np.linspace(0, rate / 2, bins)
    rows = np.array([np.interp(at, edges[i : i + 3], [0, 1, 0], 0, 0) for i in range(mels)])
    return rows * 2 / (edges[2:] - edges[:-2])[:, None] if slaney else rows


@pytest.mark.parametrize("slaney", [False, True])
def test_mel_bands_compiled(slaney: bool) -> None:
    text = (
        IMPORTS.format("mel_filters, mel_spectrogram")
        + f"""
model M(x: f32[N, T in 201..9999]) -> (f32[80, 201], f32[N, 40, T // 160 + 1]) {{
    bands = mel_filters[201, mels=80, slaney={str(slaney).lower()}]()
    return bands, mel_spectrogram[400, hop=160, mels=40, low=60, high=7000, slaney={
            str(slaney).lower()
        }](x)
}}"""
    )
    x = numbers(2, 3000)
    bands, found = dslc.compile(text)(x)
    exact = filters(201, 80, 16000, 0, 8000, slaney)
    np.testing.assert_allclose(bands, exact, atol=2e-5 * exact.max())
    energy = spectrum(torch.tensor(x), 400, 160, torch.hann_window).abs() ** 2
    wanted = filters(201, 40, 16000, 60, 7000, slaney) @ energy.numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5 * wanted.max())


def test_windows_and_a_signal_of_any_length() -> None:
    text = (
        IMPORTS.format("hann, stft")
        + """
model M(x: f32[T in 9..99999]) -> (f32[10], f32[9, F], f32[9, F]) {
    a, b = stft[16, hop=3](x)
    return hann[10](), a, b
}"""
    )
    model = dslc.compile(text)
    for length in (9, 16, 1000, 20_000):
        x = numbers(length)
        window, real, imaginary = model(x)
        np.testing.assert_allclose(window, torch.hann_window(10).numpy(), atol=1e-7)
        wanted = spectrum(torch.tensor(x), 16, 3, torch.hann_window).numpy()
        np.testing.assert_allclose(real, wanted.real, atol=1e-5)
        np.testing.assert_allclose(imaginary, wanted.imag, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("frames", "frames[16, hop=4](x)", "8 points are too few to be mirrored by 8"),
        ("frames", "frames[9, hop=4, center=false](x)", "8 points are less than one frame of 9"),
        ("irfft", "irfft[9](x, x)", "8 frequencies are not those of 9 points, 5"),
    ],
)
def test_signals_of_a_wrong_length_are_refused(name: str, call: str, message: str) -> None:
    text = IMPORTS.format(name) + f"model M(x: f32[N, 8]) -> f32 {{ return sum({call}) }}"
    with pytest.raises(CompileError, match=message):
        dslc.compile(text)


def test_magnitudes_of_silence_have_a_gradient() -> None:
    """Of a root at 0 it would be infinite, and NaN behind the product with 0."""
    x = numbers(2, 64)
    x[0] = 0
    check(
        "spectrogram[16, power=1.0](x)",
        {"x": x},
        lambda x: spectrum(x, 16, 8, torch.hann_window).abs(),
        imports=IMPORTS.format("spectrogram"),
        atol=2e-5,
    )
