"""The figures of `hedge plot gelato`: speed, energy beside speed, and the queue."""

from collections.abc import Callable

from matplotlib.figure import Figure

from research.drawing import Entries, draw_line, make_figure, make_styles, select, split_series


def _find_point(rows: Entries) -> tuple[float, float]:
    """The middle T_LLM and the lowest bandwidth."""
    times = sorted({row["t_llm"] for row in rows})
    return float(times[len(times) // 2]), min(row["bandwidth_hz"] for row in rows)


def draw_speed(rows: Entries) -> Figure:
    """tokens/s over bandwidth at the middle T_LLM; over T_LLM and J/token at the lowest one."""
    figure, (left, middle, right) = make_figure(3, 4.4)
    pass_s, lowest = _find_point(rows)
    scaled = [row | {"mhz": row["bandwidth_hz"] / 1e6, "ms": row["t_llm"] * 1e3} for row in rows]
    for name, mine, style in split_series(scaled, "system"):
        draw_line(
            left, select(mine, t_llm=pass_s), "mhz", "tokens_per_s", **style, lw=1, label=name
        )
        draw_line(middle, select(mine, bandwidth_hz=lowest), "ms", "tokens_per_s", **style, lw=1)
        (here,) = select(mine, t_llm=pass_s, bandwidth_hz=lowest)
        right.plot(here["joules_per_token"], here["tokens_per_s"], **style)
    band = f"{lowest / 1e6:g} MHz"
    time = f"{pass_s * 1e3:g} ms"
    left.set(xlabel="bandwidth, MHz", ylabel="tokens/s", title=f"T_LLM {time}")
    middle.set(xlabel="T_LLM, ms", ylabel="tokens/s", title=band)
    right.set(xlabel="J/token", ylabel="tokens/s", title=f"{band}, {time}")
    figure.legend(fontsize=7, loc="outside lower center", ncols=4)
    return figure


def draw_queue(rows: Entries) -> Figure:
    """Q after each round, of the systems that have a queue."""
    figure, (axes,) = make_figure(1, 7)
    pass_s, lowest = _find_point(rows)
    mine = [row for row in select(rows, t_llm=pass_s, bandwidth_hz=lowest) if row["queue"]]
    for row, style in zip(mine, make_styles(), strict=False):
        axes.plot(row["queue"], label=row["system"], lw=1, markevery=40, **style)
    title = f"{lowest / 1e6:g} MHz, T_LLM {pass_s * 1e3:g} ms"
    axes.set(xlabel="round", ylabel="Q, J", title=title)
    axes.set_yscale("symlog", linthresh=0.1)
    figure.legend(fontsize=7, loc="outside lower center", ncols=3)
    return figure


FIGURES: dict[str, Callable[[Entries], Figure]] = {"gelato": draw_speed, "gelato-queue": draw_queue}
