"""Is the explanation right?

Each method here examines an attribution by what the model itself does, and answers with numbers, controls and a plain sentence.
"""
