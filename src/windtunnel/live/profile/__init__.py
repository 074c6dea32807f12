"""Measure the kernels of the device at hand, as the cost model's measured tables want them."""
