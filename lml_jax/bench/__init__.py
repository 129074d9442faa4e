"""Throughput beside other libraries: each contestant in a process of its own, timed in turn."""
