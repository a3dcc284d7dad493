"""Fabricated rows and environments of schema 2, for the tests of what is made of them.

Each builder gives a complete row that looks measured; keyword arguments replace any of its values. `runs` repeats a
training row over seeds.
"""
import numpy as np

from numprec.precision import PRECISIONS

SCHEMA_VERSION = 2
COUNTS = {"overflow": 0, "skipped": 0, "stalled": 0, "underflow": 0.0, "lost": 0.0}    # the last two are shares


def environment(emulator=False, **values):
    """That of a run on a made-up GPU, or on the emulator."""
    scale = "quick" if emulator else "full"
    facts = {
        "schema_version": SCHEMA_VERSION, "time": "2026-03-01T12:00:00+00:00",
        "command": f"python bench.py --scale {scale}", "scale": scale,
        "device": "CPU emulator" if emulator else "Some GPU", "is_emulator": emulator,
        "compute_capability": [7, 5] if emulator else [9, 0],
        "times": "CPU emulation, not comparable with a GPU" if emulator else "measured on the GPU",
        "cpu": "Some CPU", "cores": 2, "platform": "Linux", "python": "3.12.0",
        "packages": {"numprec": "0.1", "numpy": "2.4.0"}, "git_commit": "0123456789abcdef", "git_dirty": False,
        "precisions": {name: {"roles": p.roles, "status": "emulated" if emulator else "native", "reason": ""}
                       for name, p in PRECISIONS.items()},
        "peaks": {"copy_bytes_per_s": 2e12, "launch_s": 4e-6, "seconds": 2.0,
                  "flops_per_s": {"float64": 3e13, "float32": 6e13, "float16": 1.2e14, "bfloat16": 1.2e14}},
        "options": {"scale": scale, "grow": [1], "seeds": None}, "cells": 1,
    }
    return {**facts, **values}


def _row(kind, precision, cell, **values):
    p = PRECISIONS.get(precision)
    return {
        "schema_version": SCHEMA_VERSION, "kind": kind, "cell": cell, "precision": precision,
        "roles": p.roles if p else precision, "availability": "native", "status": "ok", "reason": "", "seed": 0,
        "launches": 1, "samples_s": [1.0e-3, 1.1e-3, 1.2e-3], "calls_per_sample": 1,
        "command": f"python bench.py --scale full --precision {precision}", "device": "Some GPU", "clocks": None,
        "cell_s": 0.5, **values}


def kernel_row(precision="fp32", operation="matmul", rung="tiled", shape=(64, 64, 64), **values):
    """One rung in one precision."""
    p = PRECISIONS[precision]
    m, n, k = shape if len(shape) == 3 else (shape[0], 1, 1)
    row = _row("kernel", precision, f"{operation}/{rung} {'x'.join(map(str, shape))}",
               operation=operation, rung=rung, shape=list(shape), error=p.accum.u, error_over_bound=0.25, compile_s=1.5,
               flops=2 * m * n * k, bytes=p.storage.bytes * (m * k + k * n + m * n),
               end_to_end_s=[1.5e-3, 1.6e-3, 1.7e-3], format=p.accum.name)
    return failed({**row, **values})


def training_row(precision="fp64", seed=0, model="LinearRegression", data="diabetes", **values):
    """One fit in one precision; a regression unless `metric` is "accuracy"."""
    row = _row("training", precision, f"{model} on {data}, seed {seed}", seed=seed,
               model=model, data=data, stand_in=None, grow=1, n_train=353, n_test=89, n_features=10,
               test_to_train=0.25, metric="R2", score=0.5, labels_differ=None, stop_reason="converged", finished=True,
               n_iter=None, condition=None, warnings=[], first_fit_s=1.2, compile_s=1.1, transfer_s=1e-4,
               predict_s=2e-4, model_bytes=100, peak_bytes=1 << 20, energy_j=None, history=None, target=0.4,
               target_s=None, counts=dict(COUNTS), exponents=None, parameters={})
    row = {**row, **values}
    if row["metric"] == "accuracy" and row["labels_differ"] is None and precision != "fp64":
        row["labels_differ"] = 0
    return failed(row)


def peer_row(library="scikit-learn 1.9.1", precision="float64", seed=0, **values):
    """One fit of another library."""
    row = training_row(seed=seed, **values)
    return {**row, "kind": "peer", "library": library, "precision": precision, "roles": precision,
            "cell": f"{library}: {row['cell']}", "launches": None, "counts": None}


def network_row(precision="fp64", seed=0, model="MLPClassifier", data="digits", epochs=3, **values):
    """One fit of a network, with its history."""
    losses = np.geomspace(1.0, 0.2, epochs)
    history = [{"epoch": i + 1, "loss": float(loss), "accuracy": 1 - float(loss) / 2, "seconds": 0.1,
                "loss_scale": 2.0 ** 16 if precision == "mixed_fp16" else None, "skipped": 0, "overflow": 0,
                "underflow": 0, "lost": 0, "gradient_range": [2.0 ** -20, 0.5],
                "held_out": 0.95 - float(loss) / 4, "elapsed_s": 0.1 * (i + 1)} for i, loss in enumerate(losses)]
    return training_row(precision, seed, model, data, **{
        "metric": "accuracy", "score": history[-1]["held_out"], "stop_reason": "max_iter", "n_iter": epochs,
        "n_train": 1437, "n_test": 360, "n_features": 64, "test_to_train": 0.25, "target": 0.8, "target_s": 0.2,
        "samples_s": [0.1 * epochs, 0.11 * epochs], "launches": 40, "history": history,
        "exponents": {str(e): 10 for e in range(-20, 0)} if seed == 0 else None, **values})


def failed(row):
    """A row whose status says that it failed or was skipped has nothing that was measured."""
    if row["status"] == "ok":
        return row
    unmeasured = ("samples_s", "calls_per_sample", "end_to_end_s", "error", "error_over_bound", "compile_s", "score",
                  "labels_differ", "stop_reason", "finished", "n_iter", "condition", "first_fit_s", "transfer_s",
                  "predict_s", "model_bytes", "peak_bytes", "history", "target_s", "counts", "exponents", "launches")
    return {**row, **{name: None for name in unmeasured if name in row}}


def runs(precision, scores, build=training_row, **values):
    """A row for each score, seeds counted from 0; a value that is a function gets the seed."""
    return [build(precision, seed, score=score, **{name: value(seed) if callable(value) else value
                                                   for name, value in values.items()})
            for seed, score in enumerate(scores)]
