"""A forward pass as operators: what is computed, read, written and sent, on one rank."""
