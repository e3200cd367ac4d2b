"""What units look for: pictures made so that a unit, a class or a direction answers as strongly as it can.

A picture is in the model's input units. It says what would raise a number most, which need not be what raises it in
photos; so each result compares the picture, seen anew through transformations that the search never met, with the best
photo of a data set where one is given.
"""
