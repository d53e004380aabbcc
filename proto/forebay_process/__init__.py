"""What every process of ours does alike: logs, the release that its series are of, its certificates' end, and ending
when it is told to before it is up. Imports nothing by itself: `early` must come before what takes long.

May not live here: what one process counts, and how it listens.
"""
