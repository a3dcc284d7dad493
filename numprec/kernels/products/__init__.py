"""The matrix product, which most of a training's time goes to.

                   B  . . [##] . .         a block of threads computes a block of C. It walks along K: a tile of A and
                      . . [##] . .         a tile of B come to shared memory, all threads multiply, and the next two
                      . . [##] . .         tiles take their place
    A  . . . .     C  . .  .. . .
       [######] -->   . . [##] . .
       . . . .        . .  .. . .

Idea       each element of A and B is needed many times: it is fetched once into shared memory, and from there into
           registers, so that arithmetic and not memory decides
Precision  products and sums are fused multiply-adds in accum: one rounding for each term, K of them at most
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           matmul  matmul     naive, tiled, register_blocked
                   matmul_ta  the ladder of matmul
                   matmul_tb  the ladder of matmul
"""
