"""The textbook: five machine-learning algorithms, every step a CUDA kernel, every kernel in every precision.

In reading order:

    registry   what an operation and a rung are, and how to find them
    roles      what `storage` and `accum` mean inside a kernel
    reduce     sums and dot products: barriers, shuffles, and the order of a sum
    argmax     the largest element and where it is: ties, NaN
    norm       the two together: a norm that does not overflow
    matmul     the matrix product: shared tiles, register patches
    gram       means and second moments, centred and scaled: sums over many blocks
    solve      Cholesky and triangular systems: dependent steps inside one block
    qr         Householder QR with column pivoting: the condition number, not its square
    least_squares    the three before put together; iterative refinement
    ptx        the instructions that Numba has no name for
"""
