"""What in the input mattered for this answer?

Values are shaped like the place attributed (`wrt`), batch axis first. A positive value raises the target, a negative
one lowers it. A slope is in target per input unit; a contribution is in the target's own unit. Nothing is normalised,
clipped or made absolute here: that is for the drawing, which says so.
"""
