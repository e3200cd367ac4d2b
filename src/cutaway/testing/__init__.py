"""Laws that every method must keep, and small networks to try them on.

`battery.check_method(method)` yields named checks for a method of your own; `models.tiny_models(dtype)` gives the
networks that they run on. Nothing here needs data, weights or more than a second.
"""
