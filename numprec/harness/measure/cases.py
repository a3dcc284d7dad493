"""What the benchmark can run, and the choice of it that a command line makes.

Kernels come from the table of contents, so a new rung is here as soon as its chapter has it. A new model is one row in
`numprec.harness.record.models`. A cell is the unit of work: one rung, or one model with one seed, in all the chosen
precisions, which are measured in turns.
"""
from dataclasses import dataclass, replace

from numprec.harness.measure.timing import Effort
from numprec.harness.record.models import MODELS, VARIANTS, Model
from numprec.precision import unknown

TRAINED = ("least_squares/cholesky", "smo_fit/fused", "dense/register_blocked",
           "dense_input_gradient/register_blocked", "matmul_ta/register_blocked", "bias_gradient/strips",
           "cross_entropy/warp", "batch/gather", "loss_scale/survey", "adam/moments", "conv/implicit",
           "conv_weight_gradient/implicit", "conv_input_gradient/implicit", "max_pool/elementwise",
           "max_pool_gradient/gather")


@dataclass(frozen=True)
class Scale:
    """How large and how long: `name` picks the operations' bench_shapes, `operations` are those that run where none is
    asked for; None is all of them.

    smoke   whether everything works: each model on a small problem, and the rungs that those fits are made of, which
            are compiled for them anyway; a compilation takes longer than all that is measured here
    quick   an answer without a GPU: every rung, every model; networks on a part of their data, and few epochs
    full    the real data sets and networks
    """

    name: str
    kernels: Effort
    training: Effort
    seeds: int
    operations: tuple | None = None


SCALES = {scale.name: scale for scale in (
    Scale("smoke", Effort(budget=0.02, warm_up=0.0, least=3), Effort(budget=0.02, warm_up=0.0, least=3), seeds=10,
          operations=TRAINED),
    Scale("quick", Effort(budget=0.05, warm_up=0.02), Effort(budget=0.1, warm_up=0.05), seeds=10),
    Scale("full", Effort(budget=1.0, warm_up=0.2, least=10), Effort(budget=1.0, warm_up=0.2, least=10), seeds=10),
)}


SEED = 0    # of the inputs of kernels
LENGTHS = {"matmul/naive": tuple((16, 16, K) for K in (16, 64, 256, 1024, 4096))}    # sums that grow, for their error


class Cell:
    """What is run as a whole: all of its precisions in turns. `key` is the same in every run of the same cell; `kind`
    that of its rows; `columns()` what they say before anything has run."""

    @property
    def key(self):
        return str(self)

    def only(self, precisions):
        """The cell with no other precisions than these."""
        return replace(self, precisions=tuple(p for p in self.precisions if p in precisions))


@dataclass(frozen=True)
class KernelCell(Cell):
    operation: object
    rung: object
    shape: tuple
    precisions: tuple
    effort: Effort
    kind = "kernel"

    def columns(self):
        return {"operation": self.operation.name, "rung": self.rung.name, "shape": self.shape, "seed": SEED}

    def __str__(self):
        return f"{self.operation.name}/{self.rung.name} {'x'.join(map(str, self.shape))}"

    def __reduce__(self):    # compiled kernels do not travel between processes: their names do
        return _kernel_cell, (self.operation.name, self.rung.name, self.shape, self.precisions, self.effort)


def _kernel_cell(operation, rung, *rest):
    from numprec import kernels
    operation = kernels.operations()[operation]
    return KernelCell(operation, operation.rung(rung), *rest)


@dataclass(frozen=True)
class TrainingCell(Cell):
    model: Model
    seed: int
    precisions: tuple
    effort: Effort
    grow: int = 1    # how many times its training set is made larger; see `numprec.harness.measure.problems`
    kind = "training"

    @property
    def turns(self):
        """The precisions in the order of their first fits, which another one begins with the next seed: what is first
        meets a clock that has idled, and that may be its only sample."""
        first = self.seed % max(1, len(self.precisions))
        return self.precisions[first:] + self.precisions[:first]

    def columns(self):
        return {"model": self.model.label, "data": self.model.data, "seed": self.seed, "grow": self.grow,
                "target": self.model.target}

    def __str__(self):
        grown = "" if self.grow == 1 else f" x{self.grow}"
        return f"{self.model.label} on {self.model.data}{grown}, seed {self.seed}"


@dataclass(frozen=True)
class PeerCell(TrainingCell):
    """The same by another library; `precisions` are its own names of formats."""

    library: str = ""    # as it is imported
    kind = "peer"

    def columns(self):
        from numprec.harness.measure import peers
        return {**super().columns(), "library": peers.title(self.library)}

    def __str__(self):
        return f"{self.library}: {super().__str__()}"


def plan(scale, precisions, operations=None, models=None, seeds=None, grow=(1,), compare=False):
    """The cells to run, kernels first.

    `operations` and `models` are lists of names; None means all that the scale has, an empty list none. An operation is
    chosen by its name, or with one rung, "matmul/tiled"; see `rungs`. Each model runs with its problem grown by
    each factor of `grow`; 1 leaves it as it is. `compare` adds the peers that can be imported. Raises ValueError with
    the nearest name.
    """
    precisions = tuple(precisions)
    operations = scale.operations if operations is None else operations
    cells = [KernelCell(operation, rung, shape, chosen, scale.kernels)
             for operation, rung in rungs(operations)
             if (chosen := tuple(p for p in precisions if rung.supports(p)))
             for shape in (*LENGTHS.get(f"{operation.name}/{rung.name}", ()), operation.bench_shapes[scale.name])]
    trained = models_named(models)
    if scale.name != "smoke":
        trained += tuple(model for model in VARIANTS if model.name in {model.name for model in trained})
    for model in (model.at(scale) for model in trained):
        count = seeds or min(scale.seeds, model.seeds or scale.seeds)
        cells += [TrainingCell(model, seed, precisions, scale.training, factor)
                  for factor in grow for seed in range(count)]
        if compare and model not in VARIANTS:
            from numprec.harness.measure import peers
            cells += [PeerCell(model, seed, peer.formats, scale.training, factor, peer.library)
                      for peer in peers.available(model.name) for factor in grow for seed in range(count)]
    return cells


def rungs(names=None):
    """(operation, rung) for each of `names`, in reading order: "matmul" is that operation alone, "matmul/tiled" one
    rung of it. Raises ValueError with the nearest name, or with the chapter that is called so."""
    if names is not None and not names:
        return []
    from numprec import kernels
    every = [(operation, rung) for operation in kernels.operations().values() for rung in operation.rungs]

    def names_of(operation, rung):
        return operation.name, f"{operation.name}/{rung.name}"

    if names is None:
        return every
    known = list(dict.fromkeys(name for each in every for name in names_of(*each)))
    for name in names:
        if name not in known:
            if name in kernels.chapters():
                raise ValueError(f"{name!r} is not an operation but a chapter, of {', '.join(operations_of([name]))}: "
                                 f"--chapter {name}")
            raise unknown("operation", name, known)
    return [each for each in every if set(names_of(*each)) & set(names)]


def operations_of(chapters):
    """The names of the operations that these chapters, by name, describe, in reading order. Raises ValueError with the
    nearest name, and for a chapter that describes none."""
    from numprec import kernels
    known, operations = list(kernels.chapters()), kernels.operations()
    for chapter in chapters:
        if chapter not in known:
            raise unknown("chapter", chapter, known)
        if all(operation.chapter != chapter for operation in operations.values()):
            raise ValueError(f"the chapter {chapter!r} has no operation of its own: `python bench.py --list` shows "
                             "those that have")
    return [name for name, operation in operations.items() if operation.chapter in chapters]


def models_named(names=None):
    """The rows of MODELS for `names`, whose case does not matter."""
    if names is None:
        return MODELS
    known = {model.name.lower(): model.name for model in MODELS}
    for name in names:
        if name.lower() not in known:
            raise unknown("model", name, list(known.values()))
    return tuple(model for model in MODELS if model.name.lower() in {name.lower() for name in names})
