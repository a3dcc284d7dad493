"""Files of an estimator that trains a network: all that its next epoch depends on, and nothing pickled."""
import math
import numbers

import numpy as np
from sklearn.utils.validation import check_is_fitted

from numprec import __version__
from numprec.kernels.networks.batch import State
from numprec.models import training
from numprec.models.base import STOP_REASONS, is_whole
from numprec.models.network import Layout
from numprec.precision import precision_named


def is_number(x):
    """Whether x is a number of any kind, NaN and the ends of the line included, and not True or False."""
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


def _is_count(x):
    return is_whole(x) and 0 <= x < 2 ** 63


def _is_curve(x):
    return isinstance(x, list) and all(map(is_number, x))


class Saved:
    """What saves and loads a NetworkClassifier."""

    _SAVED = {      # attribute: what it may be
        "n_iter_": _is_count, "t_": _is_count, "n_outputs_": _is_count, "n_features_in_": _is_count,
        "loss_": is_number, "loss_scale_": is_number, "loss_curve_": _is_curve,
        "history_": lambda x: isinstance(x, list) and all(isinstance(row, dict) for row in x),
        "best_loss_": lambda x: x is None or is_number(x), "validation_scores_": lambda x: x is None or _is_curve(x),
        "best_validation_score_": lambda x: x is None or is_number(x), "skipped_steps_": _is_count,
        "overflow_count_": _is_count, "gradient_exponents_": lambda x: all(int(e) < 2 ** 12 and _is_count(n)
                                                                           for e, n in x.items()),
        "gradient_zeros_": _is_count, "stop_reason_": lambda x: x in STOP_REASONS,
        "precision_": lambda x: isinstance(x, str), "_seed": lambda x: _is_count(x) and x < 2 ** 31,
        "_waited": _is_count}
    _AFTER_AN_EPOCH = {"loss_", "loss_scale_", "gradient_exponents_", "gradient_zeros_", "stop_reason_"}

    def save(self, path):
        """Writes the estimator and the state of its training to a file (npz and JSON, nothing pickled). `device` is
        not saved. Raises ValueError if layers or precision were set to others since the fit."""
        check_is_fitted(self)
        arrays, about = self._checkpoint
        self._check_checkpoint()
        arrays = dict(arrays) | {f"best_{name}": a for name, a in (self._best or {}).items()}
        for name in "classes_", "feature_names_in_":
            if hasattr(self, name):
                arrays[name] = np.asarray(getattr(self, name))
                if arrays[name].dtype == object:
                    arrays[name] = arrays[name].astype(str)
        parameters = self.get_params(deep=False) | {"precision": str(precision_named(self.precision))}
        del parameters["device"]
        if not (self.random_state is None or is_whole(self.random_state)):
            parameters["random_state"] = None
        if isinstance(self.class_weight, dict):    # JSON has no keys but text
            parameters["class_weight"] = list(self.class_weight.items())
        saved = {name: getattr(self, name) for name in self._SAVED if hasattr(self, name)}
        training.write(path, arrays, {"estimator": type(self).__name__, "parameters": parameters, "training": about,
                                      "attributes": saved, "version": __version__})

    @classmethod
    def load(cls, path, device=None):
        """The estimator that `save` wrote, whose parameter `device` is the given one. `partial_fit` and `resume` go on
        with its training, bit for bit. Raises ValueError for a file that is something else, or damaged."""
        arrays, about = training.read(path)
        kind = about.get("estimator") if isinstance(about, dict) else None
        if isinstance(kind, str) and kind != cls.__name__:
            raise ValueError(f"{path} holds a {kind}, not a {cls.__name__}")
        return training.understood(path, cls._loaded, arrays, about, device)

    @classmethod
    def _loaded(cls, arrays, about, device):
        parameters, attributes = about["parameters"], about["attributes"]
        parameters.pop("device", None)
        if isinstance(parameters.get("class_weight"), list):
            parameters["class_weight"] = dict(parameters["class_weight"])
        self = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in parameters.items()}, device=device)
        self._check_parameters()
        missing = set(self._SAVED) - self._AFTER_AN_EPOCH - set(attributes)
        wrong = [name for name, value in attributes.items() if not self._SAVED[name](value)]
        if missing or wrong:
            raise ValueError(f"its {sorted(missing or wrong)[0]} is missing, or none")
        for name, value in attributes.items():
            setattr(self, name, value)
        if hasattr(self, "gradient_exponents_"):    # in JSON, keys are text
            self.gradient_exponents_ = {int(e): n for e, n in self.gradient_exponents_.items()}
        for name in "classes_", "feature_names_in_":
            if name in arrays:
                value = arrays.pop(name)
                setattr(self, name, value.astype(object) if value.dtype.kind == "U" else value)
        best = {name.removeprefix("best_"): arrays.pop(name) for name in list(arrays) if name.startswith("best_")}
        self._best, self._checkpoint = best or None, (arrays, about["training"])
        layout = self._check_checkpoint()
        self._learned(layout.cut(best or arrays))
        return self

    def _check_checkpoint(self):
        """The Layout of what is saved. ValueError unless parameters, attributes and arrays agree."""
        arrays, about = self._checkpoint
        precision, shape = precision_named(self.precision), about["shape"]
        if not all(is_whole(n) and n >= 1 for n in shape):
            raise ValueError(f"samples cannot have the shape {shape}")
        layout = Layout(self._layers(len(self.classes_)), shape, precision)
        if about["precision"] != str(precision) or about["layers"] != layout.shapes_of():
            raise ValueError("the parameters describe other layers, or another precision, than were trained")
        rows, batch_size, classes = about["data"][0], about["batch_size"], self.classes_
        named = getattr(self, "feature_names_in_", None)
        agree = (
            math.prod(shape) == self.n_features_in_ and about["data"][1:-1] == list(shape)
            and list(getattr(self, "image_shape_", shape)) == list(shape)
            and len(classes) == self.n_outputs_ and np.array_equal(np.unique(classes), classes)
            and self.precision_ == about["precision"] and arrays["state"][State.SEED] == self._seed
            and (named is None or named.shape == (self.n_features_in_,))
            and is_whole(rows) and is_whole(batch_size) and 1 <= batch_size <= rows)
        if not agree:
            raise ValueError("its parts do not belong together")
        training.check(arrays, layout, about["descent"]["solver"], -(-rows // batch_size))
        if self._best:
            training.check_learned(self._best, layout)
        return layout
