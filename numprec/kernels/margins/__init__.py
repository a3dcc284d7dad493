"""Support vectors by sequential minimal optimisation.

    o  o     |  margin  |    +  +         two multipliers at a time:
     o  o   (o)         |  +              1  which i violates its condition most?       an argmax
       o     |         (+)    +           2  which j gains most together with it?       an argmax
    o    o   |          |  +              3  move both, and all f[t] with them          a thread for each t
          support vectors: ( )            until the gap is below the tolerance

Idea       an iteration is too small for a launch of its own: a block keeps a whole problem, with a barrier where a
           launch would end, and many problems fill the card
Precision  the multipliers are running sums of small steps: kept in a narrow format they stop moving, so that the state
           is in accum even where the data are not
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           kernel_functions  rbf          the ladder of matmul
                             poly         the ladder of matmul
                             sigmoid      the ladder of matmul
           smo               smo          phases, block, problems
           smo_fit           smo_fit      fused
           working_set       working_set  working_set
"""
