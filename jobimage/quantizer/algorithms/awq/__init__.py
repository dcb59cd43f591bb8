"""AWQ: scales that protect the inputs that matter, folded into what makes them; clipping; rounding."""
