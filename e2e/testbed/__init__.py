"""A real Kubernetes on one machine without a registry: what it needs, getting it, starting, breaking and stopping it.

Nothing here knows of Forebay but `trees.py` (what its images hold) and `release.py` (its chart). Run it with `e2e` on
the path: ``PYTHONPATH=e2e python -m testbed --help``.
"""
