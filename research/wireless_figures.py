"""The figure of `hedge plot wireless`: a column a metric, a row a constellation, over SNR."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.drawing import Entries, draw_line, make_figure, select, split_series

PANELS = {
    "accuracy": "token accuracy",
    "similarity": "sentence similarity",
    "masked": "share left out",
}
# Europarl with BERT, 4-QAM (arXiv 2605.02123): mean sentence similarity and share left out, by SNR
# in dB.
PAPER = {
    "similarity": {0: 0.4198, 5: 0.6987, 10: 0.8554, 15: 0.9423},
    "masked": {0: 0.779, 5: 0.513, 10: 0.285, 15: 0.122},
}


def draw_wireless(rows: Entries) -> Figure:
    """Every system of a study, and the paper's figures, of other text and another model."""
    orders = sorted({row["qam"] for row in rows})
    metrics = [name for name in PANELS if name in rows[0]]
    figure, panels = make_figure(len(metrics), 4.4, len(orders))
    places = [(order, metric) for order in orders for metric in metrics]
    for axes, (order, metric) in zip(panels, places, strict=True):
        _draw_panel(axes, rows, order, metric, labelled=axes is panels[0])
    figure.legend(fontsize=7, loc="outside lower center", ncols=6)
    return figure


def _draw_panel(axes: Axes, rows: Entries, order: int, metric: str, *, labelled: bool) -> None:
    for system, every, style in split_series(rows, "system"):
        mine = select(every, qam=order)
        if metric != "masked" or any(row["masked"] for row in mine):
            label = system if labelled else None
            draw_line(axes, mine, "snr_db", metric, **style, lw=1, label=label)
    if order == 4 and metric in PAPER:
        label = "the paper (Europarl, BERT)" if metric == "masked" else None
        points = zip(*PAPER[metric].items(), strict=True)
        axes.plot(*points, color="0.75", lw=4, zorder=0, label=label)
    axes.set(xlabel="mean SNR, dB", ylabel=PANELS[metric], title=f"{order}-QAM", ylim=(-0.02, 1.02))


FIGURES: dict[str, Callable[[Entries], Figure]] = {"wireless": draw_wireless}
