"""From checkpoint to device: what the files hold, which bytes go first, and the threads that move them.

May not live here: model code. ``plan`` is pure and ``checkpoint`` imports no torch, so that inspecting stays quick.
"""
