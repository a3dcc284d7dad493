"""The networks of the benchmark in PyTorch: the same layers, optimizer, schedule, batches and epochs.

What differs: initial weights and the order of samples come from PyTorch's own generators; weight decay also applies to
biases; and kernels are those of cuBLAS and cuDNN, which choose their own algorithms. TF32 is left as PyTorch has it.
"""
import re

import numpy as np
import torch
from torch import nn

EVALUATED = 1024    # samples at a time
SHIFT = 4           # pixels, at most


class Classifier:
    """`fit` and `predict`, for the parameters of numprec's estimator `name`. `fmt` is a dtype of PyTorch, or "autocast"
    and one, which means float32 weights and, for float16, a loss scale."""

    def __init__(self, name, parameters, fmt, image_shape):
        self.parameters = {"max_iter": 200, "learning_rate_init": 0.001, "alpha": 1e-4, "learning_rate": "constant",
                           "batch_norm": False, "augment": False, **parameters}
        self.shape = image_shape if name == "CNNClassifier" else None
        self.narrow = getattr(torch, fmt.removeprefix("autocast ")) if fmt.startswith("autocast") else None
        self.dtype = torch.float32 if self.narrow else getattr(torch, fmt)
        self.where = "cuda" if torch.cuda.is_available() else "cpu"

    def _layers(self, features, classes):
        given = self.parameters
        if self.shape is None:
            sizes = [features, *given["hidden_layer_sizes"]]
            hidden = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
            return nn.Sequential(*hidden, nn.Linear(sizes[-1], classes))
        layers, flat = [], False
        for word in given["layers"].split("-") if "layers" in given else DEFAULT:
            if not (parts := re.fullmatch(r"(conv|pool|dense)(\d*)(?:/(\d+))?", word)):
                raise ValueError(f"the layer {word!r} is not built for PyTorch")
            kind, number, stride = parts.groups()
            if kind == "conv":
                layers += [nn.LazyConv2d(int(number), 3, padding=1, stride=int(stride or 1))]
                layers += [nn.LazyBatchNorm2d()] if given["batch_norm"] else []
                layers += [nn.ReLU()]
            elif kind == "pool":
                layers += [nn.MaxPool2d(int(number or 2))]
            else:
                layers += [*([] if flat else [nn.Flatten()]), nn.LazyLinear(int(number)), nn.ReLU()]
                flat = True
        return nn.Sequential(*layers, *([] if flat else [nn.Flatten()]), nn.LazyLinear(classes))

    def _samples(self, X):
        X = torch.as_tensor(np.ascontiguousarray(X), dtype=self.dtype, device=self.where)
        if self.shape is None:
            return X
        return X.view(-1, *self.shape).permute(0, 3, 1, 2).contiguous()

    def fit(self, X, y):
        given, batch = self.parameters, self.parameters["batch_size"]
        torch.manual_seed(given["random_state"])
        self.classes, codes = np.unique(y, return_inverse=True)
        X, codes = self._samples(X), torch.as_tensor(codes, device=self.where)
        net = self.net = self._layers(X[0].numel(), len(self.classes)).to(self.where, self.dtype)
        net.eval()(X[:2])          # lazy layers learn their shapes
        epochs, steps = given["max_iter"], -(-len(X) // batch)
        rate = given["learning_rate_init"]
        descent = torch.optim.Adam(net.parameters(), lr=rate, weight_decay=given["alpha"] / batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            descent, rate, total_steps=epochs * steps, cycle_momentum=False, final_div_factor=1e4,
        ) if given["learning_rate"] == "one_cycle" else None
        scaler = torch.amp.GradScaler(self.where, enabled=self.narrow == torch.float16)
        net.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(X), device=self.where).split(batch):
                x = self._augmented(X[rows]) if given["augment"] else X[rows]
                descent.zero_grad(set_to_none=True)
                with torch.autocast(self.where, dtype=self.narrow, enabled=self.narrow is not None):
                    loss = nn.functional.cross_entropy(net(x), codes[rows])
                scaler.scale(loss).backward()
                scaler.step(descent)
                scaler.update()
                if schedule:
                    schedule.step()
        if self.where == "cuda":
            torch.cuda.synchronize()
        self.n_iter_ = epochs
        return self

    def _augmented(self, x):
        """Each image mirrored or not, and shifted by up to SHIFT pixels, zeros coming in."""
        n, _, height, width = x.shape
        mirrored = torch.rand(n, device=x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        padded = nn.functional.pad(x, (SHIFT,) * 4)
        down, right = torch.randint(0, 2 * SHIFT + 1, (2, n, 1), device=x.device)
        rows = down + torch.arange(height, device=x.device)
        columns = right + torch.arange(width, device=x.device)
        each = torch.arange(n, device=x.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    @torch.no_grad()
    def predict(self, X):
        self.net.eval()
        codes = [self.net(x).argmax(dim=1).cpu().numpy() for x in self._samples(X).split(EVALUATED)]
        return self.classes[np.concatenate(codes)]


DEFAULT = ("conv32", "conv32", "pool", "conv64", "conv64", "pool", "dense128")
