"""Sums and maxima: many threads make one number.

    x    3   1   4   1   5   9   2   6      a thread for each element, or for every n-th of them
         |   |   |   |   |   |   |   |
         8  10   6   7 <-'---'---'---'      half of the threads add what lies half of the row away: 3 + 5, 1 + 9, ...
         |   |   |   |                      then a barrier, and the same with half of that half:
        14  17 <-'---'                      log2(8) steps, where one thread takes 7 additions in a row
         |   |
        31 <-'                              one number from each block; a second launch adds those up

Idea       threads read neighbours in strides of the whole grid, so that a warp's 32 loads are a few sectors of memory;
           then they combine what they have in log2 steps, through shared memory, or from register to register
Precision  an order of additions that depends on n alone: the same bits in every run. The error grows with the number of
           terms and with the unit roundoff of the running sum, whatever the format in which the terms are stored
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           reduce  sum     serial, tree, shuffle
                   dot     the ladder of sum
           argmax  max     the ladder of argmax
                   argmax  serial, tree, shuffle
                   argmin  the ladder of argmax
           norm    norm    the ladder of sum
"""
