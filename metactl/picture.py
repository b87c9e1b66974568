"""The drill as a picture: acknowledged rows per second and site over time, with the phases marked. SVG."""

from collections.abc import Callable, Sequence
from pathlib import Path

from metactl.timeline import Ack

BIN_MS = 250.0
FAULT, INK = "#c0392b", "#444444"
COLOURS = {"site-1": "#3b6fb6", "site-2": "#e08a2e", "site-3": "#6aa84f"}


def rates(acks: Sequence[Ack], site_of: Callable[[Ack], str], began_ms: float, ended_ms: float,
          origin_ms: float) -> tuple[list[float], dict[str, list[float]]]:  # fmt: skip
    """Seconds since the origin of each bin, and the rows per second of each site in it. Pure."""
    bins = max(1, int((ended_ms - began_ms) / BIN_MS) + 1)
    seconds = [(began_ms + (index + 0.5) * BIN_MS - origin_ms) / 1000 for index in range(bins)]
    by_site: dict[str, list[float]] = {}
    for ack in acks:
        index = int((ack.at_ms - began_ms) / BIN_MS)
        if 0 <= index < bins:
            series = by_site.setdefault(site_of(ack), [0.0] * bins)
            series[index] += ack.rows / (BIN_MS / 1000)
    return seconds, dict(sorted(by_site.items()))


def draw(path: Path, title: str, seconds: Sequence[float], by_site: dict[str, list[float]],
         marks: dict[str, float]) -> None:  # fmt: skip
    """Write the SVG. `marks` are phases in milliseconds since the fault, which is at second 0."""
    from matplotlib.figure import Figure  # slow to load: only where a picture is drawn

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    names = list(by_site)
    axes.stackplot(seconds, [by_site[name] for name in names], labels=names, step="mid", alpha=0.9,
                   colors=[COLOURS.get(name, "#888888") for name in names])  # fmt: skip
    top = max((sum(values) for values in zip(*by_site.values(), strict=True)), default=1.0) * 1.25
    shown = {phase: at_ms / 1000 for phase, at_ms in marks.items() if phase != "last_ack"}
    over = max(shown.values(), default=0.0)
    axes.axvspan(0, over, color=FAULT, alpha=0.07, linewidth=0)
    axes.axvline(0, color=FAULT, linewidth=1.5)
    said = f"every region takes writes again after {over:,.3f} s"
    axes.text(0.5 * over, 0.96 * top, said, color=FAULT, va="top", ha="center", fontweight="bold")
    for at_s in shown.values():
        axes.axvline(at_s, color=INK, linewidth=0.7, linestyle=(0, (3, 2)))
    # Phases are milliseconds apart: their names stand in one column beside the last of them.
    column = "\n".join(f"{phase.replace('_', ' '):<9} {at_s:+9.3f} s" for phase, at_s in shown.items())
    axes.annotate(column, xy=(over, 0.96 * top), xytext=(8, 0), textcoords="offset points", va="top", fontsize=8.5,
                  family="monospace", color=INK, linespacing=1.4,
                  bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#cccccc"})  # fmt: skip
    axes.set(ylim=(0, top), xlabel="seconds since the fault", ylabel="rows acknowledged per second")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    axes.legend(loc="upper left", title="served by", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg")
