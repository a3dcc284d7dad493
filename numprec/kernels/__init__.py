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
    bounds     error bounds that are computed along with a formula
    random     random numbers without a state, permutations without an array
    dense      layers of a network: bias and activation in the epilogue of a product; gradients
    cross_entropy    softmax and its loss, forward and backward at once
    batch      minibatches drawn on the device; the state of a training run
    loss_scale       what the gradients look like; update, skip or stop
    optimizer  SGD with momentum, Adam, master weights
    unfold     im2col and col2im: windows of an image as rows of a matrix, and back without atomics
    implicit   a matrix product that computes where its operands lie
    conv       convolution: direct, as a matrix product of unfolded windows, and without unfolding them
    pooling    largest or average element of each window
    moments    means and variances of a batch
    normalize  batch normalisation
    augment    mirrored and shifted images
    sort       by value, equal values by place, inside one block
    histogram  the edges of bins, and rows counted by bin and class
    impurity   how mixed a node is
    split      the best split of a node: by every threshold, by sorting, by bins
    partition  the rows of a node divided in order; rows on their way down a tree
    grow       a whole tree inside one block
    levels     all nodes of a level in one launch, until they are small enough for a block
    kernel_rows      kernel functions of two matrices: other sums on the ladder of the product
    smo_step   support vectors: which two multipliers, how far they go, and when to stop
    smo        a whole iterative method inside a block, and all binary problems in one launch
    smo_fit    the kernel matrix in that launch, too
    working_set      the same for many samples: a block's worth at a time
    ptx        the instructions that Numba has no name for
"""
