"""Networks run on a sum of two parts: what comes from a group of the input's entries, and everything else.

`tensor` holds the parts while they travel, `rules` finds the rule of an operation, `run` runs a network.
"""
