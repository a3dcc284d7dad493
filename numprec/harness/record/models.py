"""The models that the benchmark trains, and on what: one row of MODELS each."""
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Model:
    """An estimator of numprec, the data set it is trained on, and the parameters that stay the same in every
    precision. `scales` says what is otherwise at some scale, {its name: {field: value}}."""

    name: str
    data: str
    parameters: dict = field(default_factory=dict)
    finished: tuple = ("converged",)    # the values of stop_reason_ that mean a fit did what it was asked to
    first: int | None = None            # so many training samples, and no more
    seeds: int | None = None            # at most
    title: str | None = None            # its name in rows and tables, where the estimator's does not say enough
    target: float | None = None         # the held-out score that counts as having arrived, fixed before any run
    scales: dict = field(default_factory=dict)

    @property
    def label(self):
        return self.title or self.name

    def at(self, scale):
        """The model at a scale."""
        return replace(self, **self.scales.get(scale.name, {}))

    def make(self, precision):
        """A fresh estimator."""
        import numprec
        return getattr(numprec, self.name)(precision=precision, **self.parameters)


MODELS = (
    Model("DecisionTreeClassifier", data="iris", target=0.9),
    Model("LinearRegression", data="diabetes", target=0.4),
    Model("SVC", data="iris", target=0.9),
    Model("MLPClassifier", data="fashion_mnist", finished=("converged", "max_iter"), seeds=5, target=0.87,
          parameters=dict(hidden_layer_sizes=(256, 128), batch_size=128, learning_rate="one_cycle",
                          learning_rate_init=0.003, max_iter=15),
          scales={"smoke": dict(data="digits", target=0.9, parameters=dict(
                      hidden_layer_sizes=(32,), batch_size=64, learning_rate_init=0.01, max_iter=5)),
                  "quick": dict(first=5000, seeds=3, target=0.8, parameters=dict(
                      hidden_layer_sizes=(256, 128), batch_size=128, learning_rate="one_cycle",
                      learning_rate_init=0.003, max_iter=3))}),
    Model("CNNClassifier", data="cifar10", finished=("converged", "max_iter"), seeds=5, target=0.7,
          parameters=dict(batch_norm=True, augment=True, learning_rate="one_cycle", learning_rate_init=0.003,
                          max_iter=30),
          scales={"smoke": dict(data="digits", seeds=3, target=0.8, title="CNNClassifier conv8-conv16", parameters=dict(
                      layers="conv8-pool-conv16-pool-dense32", batch_size=64, learning_rate_init=0.01, max_iter=2)),
                  "quick": dict(first=1000, seeds=3, target=0.3, title="CNNClassifier conv8/2-conv16", parameters=dict(
                      layers="conv8/2-pool-conv16-pool-dense32", batch_norm=True, batch_size=32,
                      learning_rate="one_cycle", learning_rate_init=0.01, max_iter=4))}),
)

VARIANTS = (    # of models above, with parameters that show what a precision breaks; left out at the smallest scale
    Model("SVC", data="iris", target=0.9, title="SVC state=storage", parameters=dict(state="storage")),
)
