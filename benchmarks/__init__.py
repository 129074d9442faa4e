"""Throughput compared with other libraries; run from the root of the repository, not installed.

python -m benchmarks.race [WORKLOAD ...] [--list] [--repeats N] [--out FOLDER]

Implementations that are not installed are skipped (`pip install 'lml-jax[bench]'` installs them).
"""
