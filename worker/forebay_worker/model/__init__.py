"""Model code as transformers ships it, filled unit by unit and walked layer by layer.

May not live here: a fork of any model. What differs between architectures is data in ``registry``.
"""
