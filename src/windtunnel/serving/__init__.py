"""Discrete-event simulation of serving replicas: scheduler, KV cache, routing, compiled event loop."""
