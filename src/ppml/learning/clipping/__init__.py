"""Exact sums of per-example clipped gradients without materialising each gradient.

"Book-keeping" (Bu et al., arXiv 2210.00038): one forward pass, and one backward pass to the outputs of the layers. The
inputs and output gradients of each layer determine the norm of every example's gradient. With the output gradients
scaled by the clipping factors, they determine the sum of the clipped gradients, too.
"""

from ppml.learning.clipping.gradient_factors import CLIPPING_MARGIN
from ppml.learning.clipping.layer_activations import BookKeeping
from ppml.learning.clipping.layers import UnsupportedLayer, register_norm_samplers

__all__ = ["CLIPPING_MARGIN", "BookKeeping", "UnsupportedLayer", "register_norm_samplers"]
