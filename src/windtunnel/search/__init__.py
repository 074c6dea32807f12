"""The space of plans, bounds, capacity under targets, Pareto fronts and the search over them."""
