"""Decisions: frozen snapshot in, steps out.

May not live here: a clock, I/O, logging, metrics, asyncio, anything that remembers.
"""
