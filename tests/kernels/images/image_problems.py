"""What the tests of the chapters on images share: operands, the state of a batch, and the check against a bound."""
import numpy as np

from numprec.kernels.networks.batch import STATE, State

TWO_ROWS = np.array([0, 0, 0, 0, 2, *[0] * 11])    # the state of a batch of two rows


def rounded(precision, *arrays):
    return [precision.storage.round(a) for a in arrays]


def within(result, exact, error):
    return (abs(result.astype(np.float64) - exact) <= error).all()


def state_of(device, **values):
    """The state of a batch on the device; `values` by the names of State, in small letters."""
    state = np.zeros(STATE, np.int64)
    for name, value in values.items():
        state[getattr(State, name.upper())] = value
    return device.array(state)
