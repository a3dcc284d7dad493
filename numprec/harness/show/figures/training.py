"""Figures of models: what a fit costs against how well it predicts, and how networks get there."""
from collections import defaultdict

import numpy as np

from numprec.harness.judge import outcomes, statistics
from numprec.harness.show.figures import style


def time_score(rows, environment):
    """Figures with a panel per model: a point per precision, and the Pareto front."""
    groups = {label: shown for label, precisions in outcomes.by_model(rows).items()
              if (shown := {name: o for name, o in precisions.items() if o.medians and o.score})}
    return [_time_score_page(dict(page), rows, environment) for page in style.pages(groups.items(), 6)]


def _time_score_page(groups, rows, environment):
    figure, axes = style.panels(len(groups), 3.3, columns=2)
    for ax, (label, found) in zip(axes, groups.items()):
        _time_score_panel(ax, label, found, outcomes.by_model(rows)[label])
        ax.set_xlabel(style.seconds_label("seconds of a fit", environment))
    figure.suptitle(style.title("What a fit costs, and how well it predicts", environment))
    style.settle(figure)
    for ax, found in zip(axes, groups.values()):
        names = style.in_order(found)
        style.label_points(ax, [_at(found[name]) for name in names], names, [style.ink(n) for n in names], 11)
    return figure


def _at(outcome):
    return float(np.median(list(outcome.medians.values()))), outcome.score.value


def _time_score_panel(ax, label, found, every):
    for name, outcome in found.items():
        x, y = _at(outcome)
        low, _, high = statistics.quartiles(list(outcome.medians.values()))
        half = outcome.score.half_width
        ax.errorbar(x, y, xerr=[[x - low], [high - x]], yerr=half if np.isfinite(half) else None, zorder=3,
                    color=style.colour(name), marker=style.marker(name), markersize=9, markeredgecolor="white",
                    elinewidth=1.2, ecolor=style.colour(name), capsize=3)
    front = pareto([_at(outcome) for outcome in found.values()])
    ax.step([x for x, _ in front], [y for _, y in front], where="post", color="#888888", linewidth=1.2,
            linestyle="--", zorder=1)
    style.name(ax, label)
    ax.set_ylabel(f"{next(iter(found.values())).metric} on held-out data")
    ax.margins(0.12, 0.15)
    style.log_axis(ax.xaxis)
    missing = [name for name in style.in_order(every) if name not in found]
    if missing:
        ax.text(0.99, 0.02, "no time, so no point: " + ", ".join(missing), transform=ax.transAxes, ha="right",
                color=style.GREY, fontsize=9.5)


def pareto(points):
    """Those (time, score) that no other one beats in both, by time."""
    front = []
    for time, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((time, score))
    return front


# ---- networks, epoch by epoch

def histories(rows):
    """{label: {precision: the rows that have a history, a seed each}}."""
    groups = {label: {name: kept for name, o in precisions.items() if (kept := [r for r in o.run if r.get("history")])}
              for label, precisions in outcomes.by_model(rows).items()}
    return {label: precisions for label, precisions in groups.items() if precisions}


def curves(rows, environment):
    """Figures with two panels per network: held-out score against epoch, and against training seconds."""
    groups = {label: found for label, found in histories(rows).items() if any(map(_curve, found.values()))}
    return [_curves_page(dict(page), environment) for page in style.pages(groups.items(), 3)]


def _curves_page(groups, environment):
    figure, axes = style.panels(2 * len(groups), 3.4, columns=2)
    for (left, right), (label, precisions) in zip(axes.reshape(-1, 2), groups.items()):
        row = next(iter(precisions.values()))[0]
        for i, name in enumerate(style.in_order(precisions)):
            points = _curve(precisions[name])
            if not points:
                continue
            epochs, seconds, middle, low, high = map(np.array, zip(*points))
            for ax, x in (left, epochs), (right, seconds):
                ax.fill_between(x, low, high, color=style.colour(name), alpha=0.13, linewidth=0)
                ax.plot(x, middle, color=style.colour(name), marker=style.marker(name), markersize=7 - 0.5 * i,
                        linewidth=max(1, 3 - 0.4 * i),
                        markeredgecolor="white", markeredgewidth=0.5, markevery=max(1, len(x) // 8), label=name)
        seeds = max(map(len, precisions.values()))
        style.name(left, label)
        left.set_ylabel(f"{row['metric']} on held-out data")
        left.set_xlabel("epoch" + (f" (line: mean of {seeds} seeds; band: all of them)" if seeds > 1 else ""))
        right.set_xlabel(style.seconds_label("seconds of training", environment))
        left.xaxis.get_major_locator().set_params(integer=True)
        right.set_xlim(left=0)
        for ax in (left, right):
            if row.get("target"):
                ax.axhline(row["target"], color=style.GREY, linewidth=1, linestyle=":")
        if row.get("target"):
            right.annotate(f"target {row['target']:g}", (1, row["target"]), (0, 3), textcoords="offset points",
                           xycoords=("axes fraction", "data"), ha="right", color=style.GREY, fontsize=9.5)
        right.legend(frameon=False, loc="lower right")
    figure.suptitle("Score by epoch, and by training time")
    return figure


def _curve(rows):
    """[(epoch, mean seconds, mean score, least, largest)] over the seeds, for the epochs that every one reached."""
    by_epoch = defaultdict(list)
    for row in rows:
        for epoch in row["history"]:
            if epoch.get("held_out") is not None and epoch.get("elapsed_s") is not None:
                by_epoch[epoch["epoch"]].append((epoch["elapsed_s"], epoch["held_out"]))
    points = []
    for epoch, found in sorted(by_epoch.items()):
        if len(found) == len(rows) and np.isfinite(found).all():
            seconds, scores = np.array(found).T
            points.append((epoch, seconds.mean(), scores.mean(), scores.min(), scores.max()))
    return points


def loss_scale(rows, environment):
    """A panel per network: the loss scale after each epoch, a line per seed, of precisions that have one."""
    groups = {label: found for label, precisions in histories(rows).items()
              if (found := {name: kept for name, kept in precisions.items() if _scaled(kept)})}
    if not groups:
        return None
    figure, axes = style.panels(len(groups), 3.0, columns=2)
    for ax, (label, precisions) in zip(axes, groups.items()):
        seen = []
        for name, kept in precisions.items():
            for row in kept:
                epochs = [e["epoch"] for e in row["history"]]
                scales = [e["loss_scale"] for e in row["history"]]
                skipped = [(e["epoch"], e["loss_scale"]) for e in row["history"] if e.get("skipped")]
                ax.plot(epochs, scales, color=style.colour(name), alpha=0.7, marker=style.marker(name), markersize=5,
                        markeredgecolor="white", markeredgewidth=0.5, label=None if name in seen else name)
                if skipped:
                    ax.plot(*zip(*skipped), "x", color=style.COLOURS[2], markersize=11, markeredgewidth=2, zorder=4,
                            label=None if "skipped" in seen else "an epoch with steps skipped")
                    seen.append("skipped")
                seen.append(name)
        values = [e["loss_scale"] for kept in precisions.values() for row in kept for e in row["history"]]
        low, high = int(np.floor(np.log2(min(values)))) - 1, int(np.ceil(np.log2(max(values)))) + 1
        ax.set_yscale("log", base=2)
        ticks = range(low, high + 1, max(1, (high - low) // 6))
        ax.set_yticks([2.0 ** e for e in ticks], [style.power(e, 2) for e in ticks])
        ax.set_ylim(2.0 ** low, 2.0 ** high)
        style.name(ax, label)
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss scale at its end")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, loc="best")
    figure.suptitle("The dynamic loss scale, a line per seed")
    return figure


def _scaled(rows):
    """Whether the rows have a loss scale that is more than the constant 1."""
    scales = [epoch.get("loss_scale") for row in rows for epoch in row["history"]]
    return all(s is not None and np.isfinite(s) and s > 0 for s in scales) and any(s != 1 for s in scales)
