// uPlot, as a component: made once, fed in place, in the colours of the style sheet.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import type { ComponentChildren } from "preact";

export interface Line {
  label: string;
  /** The name of a colour in the style sheet: `--wait`. */
  colour: string;
  /** What it looks like. A `bound` is drawn as the edge of the band only. */
  as: "line" | "bars" | "points" | "ring" | "bound";
  scale?: "y" | "share";
  values: (number | null)[];
}

interface Props {
  title: string;
  /** What the picture shows, in a sentence, for those who do not see it. */
  summary: string;
  x: number[];
  xLabel: string;
  yLabel: string;
  lines: Line[];
  /** Draw the band between the two lines that are bounds. */
  band?: string;
  /** Whether x counts something, so that there is no tick between two. */
  counts?: boolean;
  format: (value: number) => string;
  formatX?: (value: number) => string;
  /** What is said about one x, when it is pointed at. */
  read: (index: number) => string;
  children?: ComponentChildren;
}

const HEIGHT = 200;
const FONT = "12px system-ui, sans-serif";

export function Chart(props: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const [pointed, point] = useState<number | null>(null);
  const shape = props.lines.map((line) => line.label + line.as).join();
  const data = JSON.stringify([props.x, props.lines.map((line) => line.values)]);

  useEffect(() => {
    const node = place.current;
    if (node === null) return;
    const made = new uPlot(options(() => latest.current, node.clientWidth, point), aligned(latest.current), node);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: node.clientWidth, height: HEIGHT }));
    resized.observe(node);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => made.redraw(false);
    dark.addEventListener("change", redraw);
    return () => {
      dark.removeEventListener("change", redraw);
      resized.disconnect();
      made.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(aligned(latest.current)), [data]);

  const read = pointed !== null && pointed < props.x.length ? props.read(pointed) : props.summary;
  return (
    <figure class="chart card">
      <figcaption>
        <h3>{props.title}</h3>
        <ul class="legend" aria-hidden="true">
          {props.lines.filter((line) => line.as !== "bound").map((line) => (
            <li key={line.label} class={`swatch ${line.as}`} style={{ "--swatch": `var(${line.colour})` }}>{line.label}</li>
          ))}
          {props.band && <li class="swatch area">{props.band}</li>}
        </ul>
      </figcaption>
      <div class="plot" role="img" aria-label={`${props.title}. ${props.summary}`} ref={place} />
      <p class="readout">{read}</p>
      {props.children}
    </figure>
  );
}

function aligned(props: Props): uPlot.AlignedData {
  return [props.x, ...props.lines.map((line) => line.values)];
}

/** A colour of the style sheet, as it is at this moment. */
function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(
  props: () => Props,
  width: number,
  point: (index: number | null) => void,
): uPlot.Options {
  const { lines, counts, band } = props();
  const hasShare = lines.some((line) => line.scale === "share");
  const bounds = lines.flatMap((line, i) => (line.as === "bound" ? [i + 1] : []));
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { show: false } },
    scales: { x: { time: false, range: xRange(lines) }, y: { range: zeroTo }, share: { range: () => [0, 1] } },
    series: [{}, ...lines.map(series)],
    bands: band && bounds.length === 2 ? [{ series: [bounds[1]!, bounds[0]!], fill: () => css("--band") }] : [],
    axes: [
      axis({
        // The label stands beneath the figures, which are as high as 14 pixels.
        label: props().xLabel,
        size: 30,
        space: 36,
        values: (_, ticks) => ticks.map((tick) => (props().formatX ?? String)(tick)),
        incrs: counts ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000] : undefined,
        grid: { show: false },
      }),
      axis({
        label: props().yLabel,
        size: 50,
        values: (_, ticks) => ticks.map((tick) => props().format(tick)),
      }),
      ...(hasShare ? [percentAxis()] : []),
    ],
    hooks: { setCursor: [(u) => point(u.cursor.idx ?? null)] },
  };
}

function axis(given: uPlot.Axis): uPlot.Axis {
  return {
    stroke: () => css("--muted"),
    font: FONT,
    labelFont: FONT,
    labelSize: 18,
    labelGap: 0,
    ticks: { show: false },
    border: { show: false },
    ...given,
    grid: { stroke: () => css("--grid"), width: 1, ...given.grid },
  };
}

function percentAxis(): uPlot.Axis {
  return axis({
    scale: "share",
    side: 1,
    size: 44,
    splits: () => [0, 0.25, 0.5, 0.75, 1],
    values: (_, ticks) => ticks.map((tick) => `${tick * 100}%`),
    grid: { show: false },
  });
}

function series(line: Line): uPlot.Series {
  const colour = () => css(line.colour);
  const shared = { label: line.label, scale: line.scale ?? "y", stroke: colour, spanGaps: true };
  const none = () => null;
  switch (line.as) {
    case "bars":
      return { ...shared, fill: colour, width: 0, points: { show: false }, paths: uPlot.paths.bars!({ size: [0.8, 28] }) };
    case "points":
      return { ...shared, paths: none, points: { show: true, size: 9, fill: colour, stroke: colour } };
    case "ring":
      return { ...shared, paths: none, points: { show: true, size: 15, width: 2.5, fill: () => "transparent", stroke: colour } };
    case "bound":
      return { ...shared, stroke: () => "transparent", width: 0, points: { show: false } };
    case "line":
      return { ...shared, width: 2, points: { show: true, size: 5, fill: colour, stroke: colour } };
  }
}

function zeroTo(_: uPlot, __: number | null, most: number | null): uPlot.Range.MinMax {
  return [0, most === null || most <= 0 ? 1 : most * 1.08];
}

/** Leave room for half a bar, or a ring, on both sides. */
function xRange(lines: Line[]): uPlot.Scale.Range {
  const bars = lines.some((line) => line.as === "bars");
  return (u) => {
    // Not the range that is offered: of a single x uPlot makes a hundred.
    const x = u.data[0];
    const [least, most] = [x[0] ?? 0, x[x.length - 1] ?? 1];
    const room = bars ? 0.6 : Math.max(0.05, (most - least) * 0.04);
    return [least - room, most + room];
  };
}
