"""A multi-layer perceptron, trained by the kernels of dense, cross_entropy, loss_scale and optimizer."""
import numpy as np

from numprec.kernels.networks.dense import ACTIVATIONS
from numprec.models.base import check_parameters, is_whole
from numprec.models.classifier import NetworkClassifier
from numprec.models.network import Dense

LARGEST = 2 ** 63        # units of a layer, which an index has to reach


class MLPClassifier(NetworkClassifier):
    """Multi-layer perceptron with a softmax output, trained on the cross-entropy loss in a chosen precision.

    Parameters
    ----------
    precision : str or Precision, default="fp32"
        The formats of the training; see `numprec.PRECISIONS`. "fp16" is pure: sums and weights too.
    hidden_layer_sizes : sequence of int, default=(100,)
        Units of each hidden layer.
    activation : {"relu", "tanh", "logistic", "identity"}, default="relu"
        Of the hidden layers.
    solver : {"adam", "sgd"}, default="adam"
        "sgd" has momentum.
    alpha : float, default=0.0001
        L2 penalty: alpha / 2 times the sum of squared weights, divided by the size of the batch, or by the sum of its
        samples' weights.
    batch_size : int or "auto", default="auto"
        Samples of a step; "auto" is 200, or all if they are fewer.
    learning_rate : {"constant", "cosine", "one_cycle"}, default="constant"
        "cosine" falls to 0 over max_iter epochs; "one_cycle" rises for three tenths of them, and then falls.
    learning_rate_init : float, default=0.001
        The learning rate, or the largest one.
    max_iter : int, default=200
        Epochs.
    shuffle : bool, default=True
        Whether each epoch has its own order of samples; it is the same one in every precision.
    random_state : int, RandomState or None, default=None
        Seed of initial weights, orders and the validation set.
    tol, n_iter_no_change : float, default=0.0001; int, default=10
        A constant learning rate ends, as converged, once the loss has not fallen by tol in more than n_iter_no_change
        epochs in a row; early stopping likewise with the validation score.
    verbose : bool, default=False
        Whether to print the loss after each epoch.
    warm_start : bool, default=False
        Whether `fit` starts from the weights of the last fit.
    momentum, nesterovs_momentum : float, default=0.9; bool, default=True
        Of "sgd".
    early_stopping : bool, default=False
        Whether to set validation_fraction of the data aside, and to keep the weights that score best on them.
    validation_fraction : float, default=0.1
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of "adam". An epsilon too small for the precision becomes its least normal number.
    loss_scale : None, "dynamic" or float, default=None
        What the loss is multiplied by, so that small gradients do not underflow; None is "dynamic" where the precision
        says so, else 1. A dynamic scale skips a step that overflows; otherwise an overflow ends the training.
    class_weight : dict, "balanced" or None, default=None
        What the samples of each class count for, {class: weight}, times their sample_weight; a class that is not named
        counts for 1. "balanced" is in inverse proportion to how often classes occur.
    device : {None, "gpu", "emulator"}, default=None
        Where to train; None is the GPU if there is one.

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        Weights and biases of each layer, in float64, whatever the precision; of the masters if it has some.
    classes_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn, but that two classes have two outputs.
    n_iter_, t_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_
        As in scikit-learn: n_iter_ counts the epochs of the last call of `fit` or `partial_fit`, and those that
        `resume` added; t_ and the curves go on. The loss is the mean over an epoch's batches, without the penalty.
    history_ : list of dict
        A row per epoch, as a callback gets it.
    skipped_steps_, overflow_count_, loss_scale_ : int, int, float
        Steps that a dynamic loss scale skipped, gradients that were not finite, and the last loss scale.
    gradient_exponents_ : dict of {int: int}
        Of the last batch: how many gradients have a magnitude in [2^e, 2^(e+1)), the loss scale taken out, for each e
        that occurs.
    gradient_zeros_ : int
        How many of them are 0. Those that are not finite are in neither.
    stop_reason_ : str
        "converged"; "max_iter"; "overflow": the weights are the last finite ones; "stalled": an epoch changed no
        weight at all, or the loss no longer falls and is no better than that of predicting how often each class occurs;
        "interrupted" by a callback.

    Predictions are NumPy's, in float64, so that scores tell apart how models were trained and nothing else.
    """

    _learns = ("coefs_", "intercepts_")

    def __init__(self, precision="fp32", hidden_layer_sizes=(100,), activation="relu", *, solver="adam", alpha=0.0001,
                 batch_size="auto", learning_rate="constant", learning_rate_init=0.001, max_iter=200, shuffle=True,
                 random_state=None, tol=0.0001, verbose=False, warm_start=False, momentum=0.9, nesterovs_momentum=True,
                 early_stopping=False, validation_fraction=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-8,
                 n_iter_no_change=10, loss_scale=None,
                 class_weight=None, device=None):
        self.precision = precision
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
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

    def _check_parameters(self):
        super()._check_parameters()
        check_parameters(self, {"hidden_layer_sizes": (
            "a whole number of at least 1, or a sequence of them", lambda x: all(
                is_whole(n) and 1 <= n < LARGEST for n in self._hidden()))})

    def _hidden(self):
        """The units of each hidden layer."""
        sizes = self.hidden_layer_sizes
        return list(sizes) if np.ndim(sizes) else [sizes]

    def _layers(self, n_classes):
        return [*(Dense(int(n), self.activation) for n in self._hidden()), Dense(n_classes)]

    def _learned(self, values):
        self.coefs_ = [a for (_, name), a in values.items() if name == "W"]
        self.intercepts_ = [a for (_, name), a in values.items() if name == "b"]
        self.n_layers_, self.out_activation_ = len(self.coefs_) + 1, "softmax"

    def _scores(self, X):
        with np.errstate(over="ignore", invalid="ignore"):
            for W, b in zip(self.coefs_[:-1], self.intercepts_[:-1]):
                X = ACTIVATIONS[self.activation].f(X @ W + b)
            return X @ self.coefs_[-1] + self.intercepts_[-1]
