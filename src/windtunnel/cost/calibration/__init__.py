"""Fit the cost model's constants to public tables of measured kernels; a developer's tool."""
