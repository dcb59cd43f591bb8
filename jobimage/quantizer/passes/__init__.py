"""A pass over the decoder layers: statistics in, rounded linears out; streaming is the loop around it."""
