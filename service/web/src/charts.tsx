// The pictures of one loader, each with its figures as a table.

import { Chart } from "./chart";
import { Figures } from "./parts";
import type { EpochSummary, LoaderState, Prediction } from "./state";
import { known, num, ownBytes, recentStarvation } from "./state";
import { bounds, bytes, cores, number, orDash, percent, seconds, verdict, waitName, workers } from "./words";

export function Now({ loader }: { loader: LoaderState }) {
  const waits = loader.recent?.wait_seconds ?? [];
  const steps = loader.recent?.step_seconds ?? [];
  const share = recentStarvation(loader);
  if (share === null) return null;
  const x = waits.map((_, i) => i - waits.length + 1);
  const ms = (values: number[]) => values.map((value) => value * 1000);
  const sums = waits.map((wait, i) => wait + (steps[i] ?? 0));
  const line = (i: number) => [seconds(waits[i] ?? 0), seconds(steps[i] ?? 0)];
  return (
    <Chart
      title="Now: wait and step of each batch"
      summary={`Of the time of the newest ${waits.length} batches ${percent(share)} was wait.`}
      x={x}
      xLabel="batches ago"
      yLabel="ms"
      lines={[
        { label: "wait", colour: "--wait", as: "bars", values: ms(sums) },
        { label: "step", colour: "--step", as: "bars", values: ms(steps) },
      ]}
      format={number}
      formatX={(value) => `${Math.abs(value)}`}
      read={(i) => `${x[i] === 0 ? "Newest batch" : `${-(x[i] ?? 0)} batches ago`}: wait ${line(i)[0]}, step ${line(i)[1]}`}
    >
      <Figures
        title="Newest batches"
        head={["batches ago", "wait", "step"]}
        rows={waits.map((_, i) => [`${-(x[i] ?? 0)}`, ...line(i)]).reverse().slice(0, 20)}
      />
    </Chart>
  );
}

export function Epochs({ loader }: { loader: LoaderState }) {
  const epochs = (loader.epochs ?? []).filter((epoch) => num(epoch.batches_per_second) > 0);
  const last = epochs[epochs.length - 1];
  if (last === undefined) return null;
  const name = waitName(loader);
  const device = epochs.some((epoch) => epoch.device_starvation !== undefined);
  return (
    <Chart
      title="Epochs: speed and waiting"
      summary={`Epoch ${num(last.epoch)}${last.complete ? "" : ", so far"}: ${number(num(last.batches_per_second))} batches/s, ${percent(num(last.starvation))} ${name}, ${workers(num(last.settings?.num_workers))}.`}
      x={epochs.map((epoch) => num(epoch.epoch))}
      xLabel="epoch"
      yLabel="batches/s"
      counts
      lines={[
        { label: "batches/s", colour: "--step", as: "bars", values: epochs.map((e) => num(e.batches_per_second)) },
        { label: name, colour: "--wait", as: "line", scale: "share", values: epochs.map((e) => num(e.starvation)) },
        ...(device
          ? [{
              label: "device starvation", colour: "--device", as: "line" as const, scale: "share" as const,
              values: epochs.map((e) => known(e.device_starvation)),
            }]
          : []),
      ]}
      format={number}
      read={(i) => (epochs[i] ? epochRow(epochs[i], name).join(", ") : "")}
    >
      <Figures
        title="Epochs"
        head={["epoch", "workers", "batches/s", name, "time", "start-up", "CPU used", "throttled", "verdict"]}
        rows={epochs.map(epochCells).reverse()}
      />
    </Chart>
  );
}

function epochRow(epoch: EpochSummary, name: string): string[] {
  return [
    `Epoch ${num(epoch.epoch)}: ${workers(num(epoch.settings?.num_workers))}`,
    `${number(num(epoch.batches_per_second))} batches/s`,
    `${percent(num(epoch.starvation))} ${name}`,
    `start-up ${seconds(num(epoch.start_up_seconds))}`,
    seconds(num(epoch.seconds)),
  ];
}

function epochCells(epoch: EpochSummary): string[] {
  return [
    `${num(epoch.epoch)}${epoch.complete ? "" : " (not ended)"}`,
    `${num(epoch.settings?.num_workers)}`,
    number(num(epoch.batches_per_second)),
    percent(num(epoch.starvation)),
    seconds(num(epoch.seconds)),
    seconds(num(epoch.start_up_seconds)),
    orDash(known(epoch.cpu_used_cores), cores),
    orDash(known(epoch.throttled_ratio), percent),
    verdict(epoch.verdict).title,
  ];
}

export function Curve({ loader }: { loader: LoaderState }) {
  const answer = loader.recommendation;
  const curve = byWorkers(answer?.curve ?? []);
  if (answer === undefined || curve.size < 2) return null;
  const measured = measuredByWorkers(loader.epochs ?? []);
  const chosen = num(answer.settings?.num_workers);
  const x = [...new Set([...curve.keys(), ...measured.keys(), chosen])].sort((a, b) => a - b);
  const at = x.map((count) => (count === chosen && answer.chosen ? answer.chosen : curve.get(count)));
  const predicted = known(answer.chosen?.batches_per_second);
  return (
    <Chart
      title="Predicted speed by number of workers"
      summary={`Recommended: ${workers(chosen)}${predicted === null ? "" : `, ${number(predicted)} batches/s expected`}.`}
      x={x}
      xLabel="num_workers"
      yLabel="batches/s"
      counts
      band="bounds"
      lines={[
        { label: "lower", colour: "--step", as: "bound", values: at.map((p) => known(p?.batches_per_second_lower)) },
        { label: "upper", colour: "--step", as: "bound", values: at.map((p) => known(p?.batches_per_second_upper)) },
        { label: "predicted", colour: "--step", as: "line", values: at.map((p) => known(p?.batches_per_second)) },
        { label: "measured", colour: "--measured", as: "points", values: x.map((count) => measured.get(count) ?? null) },
        { label: "recommended", colour: "--text", as: "ring", values: x.map((c) => (c === chosen ? predicted : null)) },
      ]}
      format={number}
      read={(i) => predictionRow(x[i] ?? 0, at[i], measured.get(x[i] ?? 0)).join(", ")}
    >
      <Figures
        title="Predicted speed"
        head={["num_workers", "predicted batches/s", "bounds", "measured", "starvation", "memory"]}
        rows={x.map((count, i) => predictionCells(count, at[i], measured.get(count)))}
      />
    </Chart>
  );
}

function predictionRow(count: number, p: Prediction | undefined, measured: number | undefined): string[] {
  const found = [workers(count)];
  if (p) found.push(`predicted ${number(num(p.batches_per_second))} batches/s (${bounds(p)})`);
  if (measured !== undefined) found.push(`measured ${number(measured)}`);
  return found;
}

function predictionCells(count: number, p: Prediction | undefined, measured: number | undefined): string[] {
  return [
    `${count}`,
    p ? number(num(p.batches_per_second)) : "–",
    p ? bounds(p) : "–",
    orDash(known(measured), number),
    p ? percent(num(p.starvation)) : "–",
    orDash(known(p?.memory_bytes), bytes),
  ];
}

/** The curve may hold a count twice, with another prefetch_factor: the faster is what would be chosen. */
function byWorkers(curve: Prediction[]): Map<number, Prediction> {
  const found = new Map<number, Prediction>();
  for (const point of curve) {
    const count = num(point.settings?.num_workers);
    const other = found.get(count);
    if (!other || num(point.batches_per_second) > num(other.batches_per_second)) found.set(count, point);
  }
  return found;
}

/** Batches per second of the newest whole epoch at each count. */
function measuredByWorkers(epochs: EpochSummary[]): Map<number, number> {
  const whole = epochs.filter((epoch) => epoch.complete && num(epoch.batches_per_second) > 0);
  return new Map(whole.map((epoch) => [num(epoch.settings?.num_workers), num(epoch.batches_per_second)]));
}

export function WhatIf({ loader }: { loader: LoaderState }) {
  const points = loader.recommendation?.what_if ?? [];
  if (points.length < 2) return null;
  const x = points.map((point) => num(point.cpu_limit_cores));
  const best = points.map((point) => point.best);
  const limit = known(loader.limits?.cpu_quota_cores);
  const line = (i: number) => [
    cores(x[i] ?? 0),
    `${number(num(best[i]?.batches_per_second))} batches/s`,
    workers(num(best[i]?.settings?.num_workers)),
    `${percent(num(best[i]?.starvation))} ${waitName(loader)}`,
  ];
  return (
    <Chart
      title="What if the CPU limit were another"
      summary={`${limit === null ? "There is no CPU limit now." : `The limit is ${cores(limit)} now.`} With ${line(x.length - 1).slice(0, 2).join(": ")}.`}
      x={x}
      xLabel="CPU limit, cores"
      yLabel="batches/s"
      band="bounds"
      lines={[
        { label: "lower", colour: "--step", as: "bound", values: best.map((p) => known(p?.batches_per_second_lower)) },
        { label: "upper", colour: "--step", as: "bound", values: best.map((p) => known(p?.batches_per_second_upper)) },
        { label: "best setting", colour: "--step", as: "line", values: best.map((p) => known(p?.batches_per_second)) },
        ...(limit === null
          ? []
          : [{
              label: "limit now", colour: "--text", as: "ring" as const,
              values: x.map((c, i) => (c === limit ? known(best[i]?.batches_per_second) : null)),
            }]),
      ]}
      format={number}
      read={(i) => line(i).join(", ")}
    >
      <Figures title="CPU limits" head={["CPU limit", "speed", "best setting", "waiting"]} rows={x.map((_, i) => line(i))} />
    </Chart>
  );
}

export function WorkerMemory({ loader }: { loader: LoaderState }) {
  const read = (loader.workers ?? []).filter((worker) => ownBytes(worker) !== null);
  if (read.length === 0) return null;
  const x = read.map((worker) => num(worker.worker));
  const own = read.map((worker) => ownBytes(worker) ?? 0);
  const most = Math.max(...own);
  const show = (value: number | string | undefined) => orDash(known(value), bytes);
  return (
    <Chart
      title="Memory of each worker"
      summary={`${read.length === 1 ? "The worker" : `The largest of ${workers(read.length)}`} takes ${bytes(most)} for itself, apart from what workers and trainer share.`}
      x={x}
      xLabel="worker"
      yLabel="MiB"
      counts
      lines={[{ label: "own memory", colour: "--step", as: "bars", values: own.map((value) => value / 2 ** 20) }]}
      format={number}
      read={(i) => `Worker ${x[i] ?? 0}: ${bytes(own[i] ?? 0)}`}
    >
      <Figures
        title="Worker memory"
        head={["worker", "own (USS)", "proportional (PSS)", "resident (RSS)"]}
        rows={read.map((w) => [`${num(w.worker)}`, show(w.uss_bytes), show(w.pss_bytes), show(w.rss_bytes)])}
      />
    </Chart>
  );
}
