"""Random drawings in place of public images."""

import torch

from ppml.data.transforms.strokes import draw_strokes
from ppml.randomness import Randomness


def test_drawings_have_ink_and_frame_of_mnist(real_data):
    drawings = draw_strokes(300, Randomness(1).torch())
    assert drawings.shape == (300, 28, 28) and drawings.min() == 0 and drawings.max() == 1
    real = torch.from_numpy(real_data.train.inputs[:300, 0].copy()).float() / 255
    ink, real_ink = drawings.mean(dim=(1, 2)), real.mean(dim=(1, 2))
    assert 0.3 * real_ink.mean() < ink.mean() < 2 * real_ink.mean()
    # The centre of mass is in the middle, except for strokes that cross themselves.
    places = torch.arange(28.0)
    for axis in (1, 2):
        mass = (drawings.sum(dim=axis) * places).sum(dim=1) / drawings.sum(dim=(1, 2))
        assert (mass - 13.5).abs().mean() < 1.3
    assert (drawings.flatten(1).std(dim=0).max() > 0.2) and len(drawings.unique(dim=0)) == 300


def test_drawings_depend_on_generator_only():
    torch.manual_seed(1)
    first = draw_strokes(20, Randomness(1).torch())
    torch.manual_seed(2)
    assert torch.equal(first, draw_strokes(20, Randomness(1).torch()))
    assert not torch.equal(first, draw_strokes(20, Randomness(2).torch()))
