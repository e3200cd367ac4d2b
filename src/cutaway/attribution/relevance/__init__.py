"""Layer-wise relevance propagation: the method, and its rules on operations.

`lrp` is the method. `choice` reads which rule an operation gets, and `weights` has the rules for weights. `passing`
answers every operation of a run. It stands on `weighing`, for weights and normalisations, which `layers` reads, and on
`carrier` and `tensors`, for what autograd's signal means. `start` is the target, and `ledger` keeps the books.
"""
