"""Looks at whole data sets as folds of mergeable states.

A method writes a `Work`: what states it begins with, and how they take in a batch of examples. `job.fold` cuts the data
set into shards, has each one done once, and merges them in order: in this process, over processes, or on Ray, with the
same answer. Nothing but states is kept, so a set of any length fits, and a killed job goes on where it stopped.
"""
