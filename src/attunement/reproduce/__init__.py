"""Do the papers' claims hold here? Each is written before it is run, run, and judged.

claims      a claim, the smallest effect that matters, and the verdict
studies     conditions × seeds at one scale
cells       condition and seed: run, several at once, kept and never run again
methods     what is compared: DPG, KL-control, REINFORCE
paths       two ways compared at the same place
exact       the quick scale: everything enumerated
language    the embedded and the paper's scale: one code path
arxiv_*     a paper: its claims at every scale
papers      the table of papers, and the run
results     what came out; drawing, page and documents show it
"""
