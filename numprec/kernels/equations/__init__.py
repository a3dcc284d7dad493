"""Least squares: normal equations, QR, and refinement.

    X, Y  -- units, centring -->  Z, tall: each column shifted and scaled
                                  |
              .-------------------+-------------------.
              |                                       |
    gram      G = Z'Z                       qr        Z = Q R
    cholesky  G = R'R                                 |
              |                                       |
    triangular  R'(R b) = Z'y               triangular  R b = Q'y
              |                                       |
              '------------------> b <----------------'
                                   |
    refinement    y - Z b, one format wider, is solved for again

Idea       tall matrices have few results and long sums: rows are dealt out to many blocks, and the small dependent
           steps that remain are one block's, kept apart by barriers
Precision  normal equations square the condition number, which a narrow format cannot afford; centred and scaled
           columns, QR with pivoting, and residuals in a wider format each win digits back
Ladders    each from its slowest rung to its fastest, as `python -m numprec.kernels --write` writes them
           centring       centring       naive, block, grid
           gram           gram           naive, product, block, grid
           cholesky       cholesky       serial, block
           triangular     triangular     serial, block
           qr             qr             serial, block, tall
           least_squares  least_squares  cholesky, qr, refine
"""
