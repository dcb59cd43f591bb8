"""The model: which modules a decoder layer has, and running one layer at a time on real weights."""
