"""Is the explanation right?

Each method here examines an attribution by what the model itself does, and answers with numbers, controls and a plain
sentence under `checks["verdict"]`. The attribution comes as it is, as the name of a method, or as a function `(model,
x, target)` of your own. To compare or rank entries, a map is first reduced to one signed number for each pixel,
column or token: the sum over its channels; for slopes at a token's embedding, their size.
"""
