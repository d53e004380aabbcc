"""The stored contract: values of the resources and what they are made of.

May not live here: I/O, clocks, logging, anything that imports another package of ours.
"""
