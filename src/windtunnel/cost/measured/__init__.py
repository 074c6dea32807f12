"""Measured kernels as a source of cost: tables, their importers, and what they say about an operator."""
