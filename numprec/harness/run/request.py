"""What one invocation of bench.py asks for. `Request.of` is the door: nothing behind it knows argparse."""
from dataclasses import dataclass, fields, replace
from pathlib import Path

from numprec.harness.measure import cases


@dataclass(frozen=True)
class Request:
    """`operations`, `chapters` and `models` are lists of names, None where there is no list; `chosen` says what they
    come to. `scale` and `device` are None where the device decides. `out` is the folder of the results, None a new one
    below `root`; `arguments` the command line that --resume repeats."""

    root: Path
    command: str = "python bench.py"
    arguments: tuple = ()
    precision: str = "all"        # which ones a group has may depend on the device
    operations: list | None = None
    chapters: list | None = None
    models: list | None = None
    scale: str | None = None
    grow: tuple = (1,)
    seeds: int | None = None
    compare: bool = False
    strict_data: bool = False
    budget: float | None = None        # seconds
    cell_limit: float | None = None    # seconds
    device: str | None = None
    scheduler: str | None = None
    workers: int | None = None
    fresh: bool = False
    dry_run: bool = False
    out: Path | None = None
    plots: bool = True
    verbosity: int = 0

    @classmethod
    def of(cls, options, root, arguments, command):
        """The request of what argparse found."""
        same = {field.name: vars(options)[field.name] for field in fields(cls) if field.name in vars(options)}
        return cls(**same | {
            "root": Path(root), "arguments": tuple(arguments), "command": command,
            "operations": listed(options.operation), "chapters": listed(options.chapter),
            "models": listed(options.model), "out": options.out and Path(options.out)})

    def resumed(self, folder, arguments):
        """The same for the run that is in `folder`, which `arguments` began."""
        return replace(self, out=Path(folder), arguments=tuple(arguments), fresh=False)

    def chosen(self):
        """(operations, models): None means all that the scale has, and naming some of either leaves out all of the
        other. Raises ValueError for a chapter that there is not."""
        operations, models = operations_named(self.operations, self.chapters), self.models
        if operations is None and models is not None:
            operations = []
        elif models is None and operations is not None:
            models = []
        return operations, models

    def recorded(self, scale):
        """What env.json says about it."""
        named = {"model": self.models, "operation": self.operations, "chapter": self.chapters}
        lists = {what: None if names is None else ",".join(names) for what, names in named.items()}
        return {"scale": scale.name, "grow": list(self.grow), "seeds": self.seeds, "precision": self.precision,
                **lists, "compare": self.compare, "budget": self.budget, "arguments": list(self.arguments)}


def listed(text):
    """The names in a list of the command line, None where there is no list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def operations_named(operations, chapters):
    """What --operation and --chapter name together, None where neither was given."""
    return operations if chapters is None else [*(operations or ()), *cases.operations_of(chapters)]
