"""The scattering transform of order two: wavelets, modulus, averages (Bruna and Mallat, arXiv 1203.1513)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

BANDWIDTH = 0.8
"""Standard deviation of the envelope at the finest scale, in pixels; it doubles with each scale."""
FREQUENCY = 0.75 * math.pi
"""Centre frequency at the finest scale, in radians a pixel; it halves with each scale."""
PERIODS = range(-2, 3)
"""Periods of the image over which a filter is summed, in each direction."""
GROUPS = 27
"""Groups of channels that are normalised together, as in arXiv 2011.11660."""
AT_ONCE = 16
"""Images per call: their 64 maps each fit into the cache of the processor."""


class ScatteringCoefficients:
    """Scattering coefficients of all channels, normalised in groups of channels, and of unit norm.

    Parameters
    ----------
    side : int
        Height and width of an image in pixels.
    """

    def __init__(self, side: int) -> None:
        self._transform = ScatteringTransform(side)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of ``images``, ``(n, channels, side, side)``, as ``(n, coefficients)``."""
        each = self._transform(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        normalised = functional.group_norm(each.flatten(1, 2), GROUPS)
        return functional.normalize(normalised.flatten(1), dim=1)


class ScatteringTransform:
    """Averages of an image, of its wavelet moduli, and of the wavelet moduli of these moduli.

    Parameters
    ----------
    size : int
        Height and width of an image in pixels.
    scales : int
        The averages are over ``2^scales`` pixels. Morlet wavelets have the scales ``2^j`` for ``j < scales``.
    angles : int
        The number of directions of the wavelets.

    Attributes
    ----------
    channels : int
        ``1 + scales * angles + scales * (scales - 1) / 2 * angles^2``: order 0, then order 1 by scale and angle, then
        order 2 by the scale and angle of the first and of the second wavelet, which is coarser.
    width : int
        Height and width of each channel.

    Notes
    -----
    Filters, padding and order of the channels are those of kymatio (arXiv 1812.11214). Each wavelet lowers the
    resolution of the next steps: products are folded in the Fourier domain, which samples the result more coarsely.
    The last average is one matrix, since a Gaussian separates.
    """

    def __init__(self, size: int = 28, scales: int = 2, angles: int = 8) -> None:
        step = 2**scales
        padded = ((size + step) // step + 1) * step
        self.width = padded // step - 2
        self.channels = 1 + scales * angles + scales * (scales - 1) // 2 * angles**2
        self._scales = scales
        self._padding = [(padded - size) // 2, (padded - size + 1) // 2] * 2
        self._averages = [_average(padded, scales, level) for level in range(scales)]
        # _wavelets[scale][level]: all angles, at a resolution that is 2^level times coarser.
        self._wavelets = [
            # The inverse transform divides by the number of coarse values, instead of the number of fine ones.
            [_coarser(_wavelets(padded, scale, angles), level) / 4 ** (scale - level) for level in range(scale + 1)]
            for scale in range(scales)
        ]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the transform of ``images``, float32 ``(n, size, size)``, as ``(n, channels, width, width)``."""
        return torch.cat([self._transform(part) for part in images.split(AT_ONCE)])

    def _transform(self, images: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(images[:, None], self._padding, mode="reflect")
        spectrum = torch.fft.fft2(padded)
        first, second = [], []
        for scale in range(self._scales):
            moduli = _filtered(spectrum, self._wavelets[scale][0], scale)
            first.append(self._average(moduli, scale))
            if scale + 1 == self._scales:
                continue
            inner = torch.fft.fft2(moduli)[:, :, None]
            coarser = [
                self._average(_filtered(inner, self._wavelets[other][scale], other - scale), other)
                for other in range(scale + 1, self._scales)
            ]
            second.append(torch.cat(coarser, dim=2).flatten(1, 2))
        return torch.cat([self._average(padded, 0), *first, *second], dim=1)

    def _average(self, maps: torch.Tensor, level: int) -> torch.Tensor:
        """Average maps that are ``2^level`` times coarser than the image, without the averages of padding alone."""
        averaged: torch.Tensor = maps.flatten(-2) @ self._averages[level]
        maps = averaged.unflatten(-1, (self.width, self.width))
        return maps


def _filtered(spectrum: torch.Tensor, filters: torch.Tensor, octaves: int) -> torch.Tensor:
    """Return the modulus of maps filtered by each of ``filters``, sampled ``2^octaves`` times more coarsely."""
    blocks, width = 2**octaves, filters.shape[-1] // 2**octaves
    total: torch.Tensor | None = None
    for down in range(0, blocks * width, width):
        for right in range(0, blocks * width, width):
            place = (..., slice(down, down + width), slice(right, right + width))
            product = spectrum[place] * filters[place]
            total = product if total is None else total.add_(product)
    assert total is not None
    moduli: torch.Tensor = torch.fft.ifft2(total).abs()
    return moduli


def _wavelets(size: int, scale: int, angles: int) -> NDArray[np.float64]:
    """Return the spectra, which are real, of Morlet wavelets in every direction, shape ``(angles, size, size)``."""
    deviation, frequency, slant = BANDWIDTH * 2**scale, FREQUENCY / 2**scale, 4.0 / angles
    spectra = []
    for number in range(angles):
        angle = (angles // 2 - 1 - number) * math.pi / angles
        wave = _wave(size, deviation, angle, frequency, slant)
        envelope = _wave(size, deviation, angle, 0.0, slant)
        # Without a mean: the wavelet of a constant is zero.
        spectra.append(np.fft.fft2(wave - wave.sum() / envelope.sum() * envelope).real)
    return np.stack(spectra)


def _wave(size: int, deviation: float, angle: float, frequency: float, slant: float) -> NDArray[np.complex128]:
    """Return a plane wave under a Gaussian envelope, ``1 / slant`` times longer across than along, wrapped around."""
    total = np.zeros((size, size), dtype=np.complex128)
    positions = np.arange(size, dtype=np.float64)
    for down in PERIODS:
        for right in PERIODS:
            y, x = np.meshgrid(positions + down * size, positions + right * size, indexing="ij")
            along, across = y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)
            exponent = -(along**2 + (slant * across) ** 2) / (2 * deviation**2)
            total += np.exp(exponent + 1j * frequency * along)
    return total * slant / (2 * math.pi * deviation**2)


def _coarser(spectra: NDArray[np.float64], level: int) -> torch.Tensor:
    """Return the low frequencies of filters, for a grid that is ``2^level`` times coarser."""
    low = _low(spectra.shape[-1], level)
    return torch.from_numpy(spectra[..., low[:, None], low].astype(np.complex64))


def _low(size: int, level: int) -> NDArray[np.int64]:
    """Return the positions of the frequencies of a grid that is ``2^level`` times coarser, in its order."""
    kept = size // 2**level
    return np.fft.ifftshift(np.arange(kept) - kept // 2) % size


def _average(size: int, scales: int, level: int) -> torch.Tensor:
    """Return the matrix from a map at ``level`` to its average, shape ``((size / 2^level)^2, width^2)``."""
    deviation, positions = BANDWIDTH * 2 ** (scales - 1), np.arange(size, dtype=np.float64)
    wrapped = sum(np.exp(-((positions + period * size) ** 2) / (2 * deviation**2)) for period in PERIODS)
    spectrum = np.fft.fft(wrapped / math.sqrt(2 * math.pi * deviation**2))[_low(size, level)]
    kernel = np.fft.ifft(spectrum).real
    places = np.arange(0, len(kernel), 2 ** (scales - level))[1:-1]
    one = kernel[(places[:, None] - np.arange(len(kernel))) % len(kernel)]
    return torch.from_numpy(np.kron(one, one).T.astype(np.float32).copy())
