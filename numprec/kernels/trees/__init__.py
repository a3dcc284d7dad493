"""Trees: a decision tree, from sorting a column to growing all nodes of a level.

    x       5 9 2 8 3 1         sort      1 2 3 5 8 9                 which cut leaves the least impurity?
    class   0 2 1 2 1 0    -->            0 1 1 0 2 2
                                scan      what lies left of each: 0 | 1 1 0 2 2,  0 1 | 1 0 2 2,  ...
                                split     0 1 1 0 | 2 2
                                partition the rows, then the same for either side, until a side has one class

Idea       a prefix sum is the tool of this part: where a row goes, what lies left of a cut, who is counted next, are
           each a sum over all that come before, and a warp, a block or a grid computes all of them in log2 steps
Precision  counts are integers, and exact in any order; only impurities are rounded. So all rungs that try
           every threshold grow the same tree; a lower precision shows in thresholds, and in the choice between cuts
           that are almost equal
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           sort       sort            ranks, bitonic
           bins       bins            picked, quantiles
           histogram  histogram       direct, private
           split      split           candidates, in_order, binned
                      split_weighted  the ladder of split
           partition  partition       counted, scanned
           descend    descend         walk
           tree_fit   grow            node_by_node, one_block, levels
"""
