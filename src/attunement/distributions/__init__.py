"""Languages: anything that can be sampled from and knows the log-probability of a sample.

`causal` wraps any causal language model of transformers, `seq2seq` any that reads its context with
an encoder, and `models.load` finds out which it is; `tabular` is the exact oracle whose every
sentence can be enumerated, `tiny` is the model that comes with the package.
"""
