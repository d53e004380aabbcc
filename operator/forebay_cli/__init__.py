"""The command line: local mode (`forebay up`), the verbs that look at a running system, and tools.

May not live here: decisions (they are the operator's), torch (workers and model tools are other processes).
"""
