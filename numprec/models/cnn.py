"""A convolutional network, trained by the kernels of the parts on images and networks."""
import math

import numpy as np
from sklearn.utils.validation import check_is_fitted

from numprec.kernels.images import augment
from numprec.models.base import BOOLEAN, check_parameters, is_whole
from numprec.models.classifier import NetworkClassifier
from numprec.models.layers import parse
from numprec.models.network import Dense, build
from numprec.models.training import copy_rows
from numprec.precision import precision_named

LAYERS = "conv32-conv32-pool-conv64-conv64-pool-dense128"
PIXELS = np.arange(256) / 127.5 - 1      # what the bytes of an image stand for
CNN_RULES = {
    "layers": ("a text such as 'conv32-pool-dense128', or a list of its words",
               lambda x: isinstance(x, str) or isinstance(x, (list, tuple)) and all(isinstance(w, str) for w in x)),
    "batch_norm": BOOLEAN,
    "augment": ("False, True or a number of pixels", lambda x: BOOLEAN[1](x) or is_whole(x) and 0 <= x < 2 ** 31),
    "image_shape": ("(height, width, channels) or None", lambda x: x is None or (
        np.shape(x) == (3,) and all(is_whole(n) and n >= 1 for n in x))),
}
CHUNK = 2 ** 24                          # numbers that predictions keep of a layer at a time


class CNNClassifier(NetworkClassifier):
    """Convolutional network with a softmax output, trained on the cross-entropy loss in a chosen precision.

    X is (n_samples, height, width, channels), or a row per sample (n_samples, height * width * channels), which
    `image_shape` tells how to read; without it, a row is an image of one line, 1 x n_features x 1. Bytes (uint8) are
    scaled from 0..255 to [-1, 1]; numbers of any other type are taken as they are.

    Parameters
    ----------
    precision : str or Precision, default="fp32"
        The formats of the training; see `numprec.PRECISIONS`. "fp16" is pure: sums and weights too.
    layers : str, default="conv32-conv32-pool-conv64-conv64-pool-dense128"
        The layers from the image on, joined by "-": conv32 is a convolution of 3 x 3 windows with 32 filters (conv32x5:
        5 x 5 windows; conv32/2: every second one), pool the largest and avgpool the average of 2 x 2 elements (pool3:
        of 3 x 3), gap the average of the whole image, dense128 128 units. The output layer comes by itself. Windows
        larger than the image are cut down to it.
    activation : {"relu", "tanh", "logistic", "identity"}, default="relu"
        Of all layers but the last.
    batch_norm : bool, default=False
        Whether a batch normalisation follows each convolution.
    augment : bool or int, default=False
        Whether each image of a batch is mirrored or not, and shifted by up to 4 pixels, or so many, at random; the same
        way in every precision.
    image_shape : (height, width, channels) or None, default=None
        Of the rows of a two-dimensional X.
    solver, alpha, learning_rate, learning_rate_init, shuffle, random_state, tol, n_iter_no_change, verbose, warm_start,
    momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, loss_scale,
    class_weight, device
        As in MLPClassifier.
    batch_size : int or "auto", default=128
        Samples of a step.
    max_iter : int, default=100
        Epochs.

    Attributes
    ----------
    parameters_ : dict
        Weights and running moments, {"conv1.F": array, "conv1.b": array, ...}, in float64, whatever the precision; of
        the masters if it has some. Filters are (height, width, channels below, filters).
    image_shape_ : tuple
    classes_, n_outputs_, n_features_in_, n_iter_, t_, loss_, best_loss_, loss_curve_, validation_scores_,
    best_validation_score_, history_, skipped_steps_, overflow_count_, loss_scale_, gradient_exponents_,
    gradient_zeros_, stop_reason_
        As in MLPClassifier.

    Predictions are NumPy's, in float64, so that scores tell apart how models were trained and nothing else.
    """

    _learns = ("parameters_",)
    _SAVED = NetworkClassifier._SAVED | {
        "image_shape_": lambda x: len(x) == 3 and all(is_whole(n) and n >= 1 for n in x)}

    def __init__(self, precision="fp32", layers=LAYERS, activation="relu", *, batch_norm=False, augment=False,
                 image_shape=None, solver="adam", alpha=0.0001, batch_size=128, learning_rate="constant",
                 learning_rate_init=0.001, max_iter=100, shuffle=True, random_state=None, tol=0.0001, verbose=False,
                 warm_start=False, momentum=0.9, nesterovs_momentum=True, early_stopping=False, validation_fraction=0.1,
                 beta_1=0.9, beta_2=0.999, epsilon=1e-8, n_iter_no_change=10, loss_scale=None,
                 class_weight=None, device=None):
        self.precision = precision
        self.layers = layers
        self.activation = activation
        self.batch_norm = batch_norm
        self.augment = augment
        self.image_shape = image_shape
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.loss_scale = loss_scale
        self.class_weight = class_weight
        self.device = device

    # ---- samples

    def _checked_for_classes(self, X, y):
        X, shape = self._rows(X)
        X, y = super()._checked_for_classes(X, y)
        shape = shape or self.image_shape or (1, X.shape[1], 1)
        if self.image_shape is not None and tuple(self.image_shape) != tuple(shape):
            raise ValueError(f"the images are {_words(shape)}, but image_shape is {_words(self.image_shape)}")
        if math.prod(shape) != X.shape[1]:
            raise ValueError(f"X has {X.shape[1]} features, but image_shape {_words(shape)} makes {math.prod(shape)}")
        self.image_shape_ = tuple(map(int, shape))
        return X, y

    def _checked_for_predict(self, X):
        check_is_fitted(self)
        X, shape = self._rows(X)
        if shape is not None and shape != tuple(self.image_shape_):
            raise ValueError(f"the images are {_words(shape)}, but {type(self).__name__} was fitted to images of "
                             f"{_words(self.image_shape_)}")
        return super()._checked_for_predict(X)

    def _rows(self, X):
        """X with a sample a row, and the shape of the images if they have one."""
        X = self._on_host(X)
        dimensions = getattr(X, "ndim", 2)
        if dimensions == 3:
            raise ValueError("Expected X of shape (samples, height, width, channels), got 3 dimensions: X[..., None] "
                             "has one channel")
        if dimensions != 4:
            return X, None
        X = np.asarray(X)
        return X.reshape(len(X), -1), X.shape[1:]

    def _as_numbers(self, X):
        """Bytes stay bytes until they are rounded to storage, which takes less room than float64."""
        return np.ascontiguousarray(X) if X.dtype == np.uint8 else super()._as_numbers(X)

    def _samples(self, X):
        if X.dtype == np.uint8:
            X = precision_named(self.precision).storage.round(PIXELS)[X]
        return X.reshape(len(X), *self.image_shape_)

    # ---- the network

    def _check_parameters(self):
        super()._check_parameters()
        check_parameters(self, CNN_RULES)
        self._layers(2)

    def _layers(self, n_classes):
        return [*parse(self.layers, self.activation, self.batch_norm), Dense(n_classes)]

    def _reach(self):
        return augment.REACH if isinstance(self.augment, (bool, np.bool_)) else int(self.augment)

    def _load(self):
        if not self.augment:
            return copy_rows
        reach = self._reach()

        def load(training, rows, x):
            network = training.network
            images = network.buffer("batch", "images", x.shape)
            copy_rows(training, rows, images)
            augment.launch(training.device, network.rung("augment"), training.precision, images, training.state,
                           reach, out=x)
        return load

    def _learned(self, values):
        self.parameters_ = {".".join(key): array for key, array in values.items()}
        self.image_shape_ = tuple(self.image_shape_)

    def _scores(self, X):
        X = X.reshape(len(X), *self.image_shape_)
        layers = self._layers(len(self.classes_))
        largest = 1                          # numbers per sample, unfolded windows counted
        for layer, p in build(layers, self.image_shape_)[0]:
            if len(p.shape) == 4:
                largest = max(largest, layer.view.P * layer.view.Q * math.prod(p.shape[:3]))
        rows = max(1, CHUNK // largest)
        precision, scores = precision_named(self.precision), []
        for first in range(0, len(X), rows):
            x = X[first:first + rows]
            x = PIXELS[x] if x.dtype == np.uint8 else x
            with np.errstate(over="ignore", invalid="ignore"):
                for layer in layers:
                    of_layer = layer.name + "."
                    x = layer.exact({name.removeprefix(of_layer): a for name, a in self.parameters_.items()
                                     if name.startswith(of_layer)}, x, precision)
            scores.append(x)
        return np.concatenate(scores)


def _words(shape):
    return " x ".join(map(str, shape))
