"""Convolution, pooling and batch normalisation.

    image              windows, a row each          the same, as a matrix product
    a b c d            a b c e f g i j k
    e f g h    -->     b c d f g h j k l     X      filters, a column each     =      results
    i j k l            ...
    m n o p

Idea       a convolution is a matrix product whose left matrix repeats each pixel for each window that it lies in:
           write that matrix out, or compute where its elements lie while the tiles are filled
Precision  windows copy and round nothing; gradients are gathered, not scattered by atomics, so that they are summed in
           a fixed order and have the same bits in every run
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           im2col         im2col                 elementwise
                          col2im                 gather
           conv           conv                   direct, unfolded, implicit
                          conv_weight_gradient   unfolded, implicit
                          conv_input_gradient    unfolded, implicit
           pooling        max_pool               elementwise
                          max_pool_gradient      gather
                          average_pool           window_mean
                          average_pool_gradient  the ladder of max_pool_gradient
           batch_moments  batch_moments          strips
                          running_moments        elementwise
           batch_norm     batch_norm             elementwise
                          batch_norm_gradient    strips
           augment        augment                shift
"""
