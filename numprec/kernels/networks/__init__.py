"""Layers, their loss, and the steps of a training.

    samples, shuffled       X --> X W + b --> f --> Z --> softmax --> loss        forward: products with an epilogue
    by random numbers             |                                    |
    without a state         W <-- dW, db <-------------------- dZ <----'          backward: products again
                            |
                            '-- loss scale: update or skip? --> optimizer         all of it decided on the device

Idea       a training step is a chain of launches that the host only records: batches, loss scale and learning rates
           live in device memory, and small steps are fused into the products as epilogues
Precision  gradients are the numbers that underflow first: the loss is scaled by a power of two, which rounds nothing,
           and weights may keep a master copy in a wider format
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           philox         uniform               elementwise
                          permutation           walk
           dense          dense                 the ladder of matmul
                          dense_input_gradient  the ladder of matmul
                          bias_gradient         column, strips
                          activation_gradient   elementwise
           cross_entropy  cross_entropy         serial, warp
           batch          batch                 gather
                          weigh                 block
           loss_scale     loss_scale            survey
           optimizer      sgd                   momentum
                          adam                  moments
                          convert               elementwise
"""
