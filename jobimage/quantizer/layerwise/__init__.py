"""The passes over one decoder layer: statistics in, rounded linears out; the loop around them is streaming.py."""
