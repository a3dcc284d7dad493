"""Problems for SMO, the algorithm of the paper in Python, and what a run leaves."""
import numpy as np

from numprec.kernels.margins import kernel_functions, smo, smo_fit, working_set
from numprec.kernels.margins.smo_step import Info, Number
from numprec.kernels.products import matmul
from numprec.precision import PRECISIONS

FP64, FP32, BF16 = PRECISIONS["fp64"], PRECISIONS["fp32"], PRECISIONS["mixed_bf16"]
FUNCTIONS = list(kernel_functions.FUNCTIONS)
BY_SETS = working_set.working_set


class Data:
    """Two overlapping clouds, and the problem of telling them apart, as `smo` takes it."""

    def __init__(self, device, precision, n=60, C=1.0, problems=1, function="rbf", seed=0, distance=1.5):
        rng = np.random.default_rng(seed)
        self.device, self.precision, self.n, self.function = device, precision, n, function
        self.y = np.where(np.arange(n) < n // 2, 1.0, -1.0)
        self.X = precision.storage.round(rng.standard_normal((n, 4)) + distance * self.y[:, None] / 2)
        self.Y = np.stack([self.y, *(rng.permutation(self.y) for _ in range(problems - 1))])
        self.C = np.full(self.Y.shape, C)
        self.on_device = device.array(self.X)
        self.parameters = device.array(np.array([0.25, 1, 3]), precision.accum)
        self.K = kernel_functions.launch(device, matmul.naive, precision, self.on_device, self.on_device,
                                         self.parameters, function)

    def problems(self, state="accum", fused=False):
        entries = np.arange(self.n)
        row = np.arange(self.Y.size) if fused else np.tile(entries, len(self.Y))
        return smo.problems_of(self.device, self.precision, [self.n] * len(self.Y), row,
                               np.tile(entries, len(self.Y)), self.device.array(self.Y.ravel(), self.precision.storage),
                               self.device.array(self.C.ravel(), self.precision.accum), state)

    def solve(self, rung, tolerance=1e-3, max_iter=10 ** 6, state="accum"):
        """alpha, f, numbers and info, in float64."""
        todo = self.problems(state, rung is smo_fit.fused)
        if rung is smo_fit.fused:
            self.own_K = self.device.empty((self.Y.size, self.n), self.precision.storage)
            sample = self.device.array(np.tile(np.arange(self.n, dtype=np.int32), len(self.Y)))
            smo.solve(self.device, rung, self.precision, self.own_K, todo, tolerance, max_iter, fill=smo_fit.Source(
                self.on_device, self.parameters, FUNCTIONS.index(self.function), sample))
        elif rung is BY_SETS:
            working_set.solve(self.device, rung, self.precision, todo, tolerance, max_iter, K=self.K)
        else:
            smo.solve(self.device, rung, self.precision, self.K, todo, tolerance, max_iter)
        return tuple(self.device.to_host(a).astype(np.float64) for a in todo.found)

    def objective(self, alpha):
        K, moved = self.device.to_host(self.K).astype(np.float64), self.y * alpha
        return moved @ K @ moved / 2 - alpha.sum()


def paper(K, y, C):
    """Fan, Chen and Lin, algorithm 2 with WSS 2, in NumPy; ties of the first step go to the first. Gives alpha and f
    after each step, up to the first where a choice hangs on a rounding, as f_i = f_j after a step to no bound."""
    alpha, f = np.zeros(len(y)), -y
    while True:
        up = np.where(y > 0, alpha < C, alpha > 0)
        low = np.where(y > 0, alpha > 0, alpha < C)
        firsts = np.where(up, f, np.inf)
        i = np.argmin(firsts)
        b = f - f[i]
        a = K[i, i] + np.diag(K) - 2 * K[i]
        gains = np.where(low & (b > 0), b ** 2 / np.maximum(a, 1e-12), -np.inf)
        j = np.argmax(gains)
        close = np.sort(firsts)[1] - f[i] < 1e-9 or np.sort(gains)[-2] > (1 - 1e-9) * gains[j]
        if alpha.any() and close or not gains[j] > 0:
            return
        room_i, room_j = (C - alpha[i] if y[i] > 0 else alpha[i]), (alpha[j] if y[j] > 0 else C - alpha[j])
        step = min(b[j] / max(a[j], 1e-12), room_i, room_j)
        alpha[i] += y[i] * step
        alpha[j] -= y[j] * step
        f += step * (K[i] - K[j])
        yield alpha.copy(), f.copy()


def seen(results):
    """The bits of alpha, f, and what is not left over from an iteration."""
    alpha, f, numbers, info = results
    return [a.tobytes() for a in (alpha, f, numbers[:, :Number.SIZE + 1], info[:, :Info.ENDED + 1])]
