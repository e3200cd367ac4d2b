"""Which concepts single units carry: how well a unit's strongest places agree with places where a concept is.

A unit is cut at its own high quantile over a whole data set. Agreement is intersection over union (IoU) of the two sets
of pixels, summed over the data set before it is divided, from 0 to 1. Chance is the IoU of two sets that do not know of
each other, a b / (a + b - a b) for shares a and b of the pixels.
"""
