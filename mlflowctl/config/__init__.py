"""Settings in layers, each value with its origin; secrets by reference.

The way in is ``layers.resolve``; the options themselves are the tuples of ``options``.
"""
