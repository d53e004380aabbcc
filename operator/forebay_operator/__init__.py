"""The operator: takes in functions, workers' reports and demand, decides, and tells workers and gateways.

May not live here: HTTP for callers, model files, torch. The decisions themselves are in ``decide``, which does no I/O.
"""
