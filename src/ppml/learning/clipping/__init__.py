"""Sums of clipped gradients, exact for each example, without a gradient for each example.

"Book-keeping" (Bu et al., arXiv 2210.00038): one forward pass and one backward pass that stops at the outputs of the
layers; what each layer took in and the gradient of what it gave out determine the norm of every example's gradient,
and then, with the output gradients scaled by the clipping factors, the sum of the clipped gradients.
"""

from ppml.learning.clipping.gradient_factors import CLIPPING_MARGIN
from ppml.learning.clipping.layer_activations import BookKeeping
from ppml.learning.clipping.layers import UnsupportedLayer, register_norm_samplers

__all__ = ["CLIPPING_MARGIN", "BookKeeping", "UnsupportedLayer", "register_norm_samplers"]
