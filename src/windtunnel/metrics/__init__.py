"""Latency, throughput, goodput, utilisation, energy and money from simulation results."""
