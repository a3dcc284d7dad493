"""units: how rows are dealt to blocks."""
from numprec.kernels.equations.units import TILE, deal


def test_deal_leaves_no_block_without_a_row():
    for N in [*range(1, 300), 4095, 4097, 1_000_000, 1_000_003, 50_000_000]:
        for P in 1, 16, 17, 100, 1000:
            rows, blocks = deal(N, P)
            assert rows % TILE == 0 and (blocks - 1) * rows < N <= blocks * rows
