"""Seeds: independence of generators, and secrecy of the seeds of parties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppml.randomness import Randomness


def words(generator: torch.Generator) -> np.ndarray:
    """Return the 624 words of a Mersenne twister."""
    return generator.get_state().numpy()[24 : 24 + 8 * 624].view(np.uint64)


def has_32_bit_seed(generator: torch.Generator) -> bool:
    """Return whether each word of the state follows from the previous one, as after ``manual_seed``."""
    state = words(generator)
    previous = state[:-1]
    expected = (1812433253 * (previous ^ (previous >> np.uint64(30))) + np.arange(1, 624, dtype=np.uint64)) % 2**32
    return bool(np.array_equal(expected, state[1:]))


def test_torch_generator_has_more_than_32_bits_of_state():
    assert not has_32_bit_seed(Randomness(1).child("noise").torch())
    assert has_32_bit_seed(torch.Generator().manual_seed(2**40 + 5)), "the check detects a seed of 32 bits"


def test_torch_keeps_32_bits_of_a_seed():
    one, other = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.rand(8, generator=one), torch.rand(8, generator=other)), "the reason for setting the state"


@pytest.mark.parametrize(
    "draw", [lambda rng: torch.rand(64, generator=rng.torch()), lambda rng: rng.numpy().random(64)]
)
def test_nodes_repeat_and_differ_from_each_other(draw):
    paths = [(), ("a",), ("b",), ("a", "b"), ("ab",), (1,), ("1",), (1.0,), ("a", 1), ("a", 2)]
    nodes = [Randomness(7, path) for path in paths] + [Randomness(8), Randomness(7).party("a"), Randomness(b"7" * 32)]
    drawn = [np.asarray(draw(node)) for node in nodes]
    assert all(np.array_equal(one, np.asarray(draw(node))) for one, node in zip(drawn, nodes, strict=True))
    distinct = {one.tobytes() for one in drawn}
    assert len(distinct) == len(nodes)


def test_torch_generator_draws_uniform_and_normal_values():
    generator = Randomness(3).torch()
    uniform, normal = torch.rand(200_000, generator=generator), torch.randn(200_000, generator=generator)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.003) and uniform.var().item() == pytest.approx(
        1 / 12, rel=0.02
    )
    assert normal.mean().item() == pytest.approx(0.0, abs=0.012) and normal.var().item() == pytest.approx(1.0, rel=0.02)


def test_path_is_independent_of_the_number_of_calls():
    assert Randomness(1).child("a", 2).key == Randomness(1).child("a").child(2).key


def test_party_seed_reveals_no_other_seed():
    root = Randomness(2024).child("seed", 0)
    one, other = root.party("client", 0), root.party("client", 1)
    assert one.path == other.path == () and len(one.root) == 32
    assert one.root not in (root.key, other.root, root.child("client", 0).key)
    assert "2024" not in repr(root) and one.root.hex() not in repr(one)


def test_keys_use_all_of_256_bits():
    keys = np.array([list(Randomness(1).child(number).key) for number in range(4000)], dtype=np.uint8)
    bits = np.unpackbits(keys, axis=1)
    assert bits.shape == (4000, 256)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(4000)
