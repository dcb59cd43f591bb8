"""QuaRot: rotations folded into the weights, and rounding in few bits."""
