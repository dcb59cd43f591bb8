"""GPTQ: the columns of a weight one after another, each rounding's error made up for by the columns to come."""
