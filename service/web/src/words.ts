// Numbers and names as people read them.

import type { DecisionRecord, LoaderSettings, LoaderState, Prediction } from "./state";
import { num } from "./state";

export type Tone = "good" | "warn" | "plain";

interface Verdict {
  title: string;
  text: string;
  tone: Tone;
}

// As in client/feedwater/verdicts.py: tests/unit/test_verdicts.py compares.
const VERDICTS: Record<string, Verdict> = {
  NOT_STARVED: { title: "Not starved", text: "No other setting would gain anything worth having.", tone: "good" },
  TOO_FEW_WORKERS: { title: "Too few workers", text: "More workers would bring the batches sooner.", tone: "warn" },
  TOO_MANY_WORKERS: { title: "Too many workers", text: "Fewer workers do as well, or better.", tone: "warn" },
  CPU_LIMIT: { title: "CPU limit", text: "Loading uses up the cores that the container may use.", tone: "warn" },
  CPU_CONTENTION: {
    title: "CPU contention",
    text: "Other containers on this node use the CPUs that loading waits for.",
    tone: "warn",
  },
  STORAGE: { title: "Storage", text: "Storage gives no more, whatever the number of workers.", tone: "warn" },
  MAIN_PROCESS: {
    title: "Main process",
    text: "Receiving each batch costs the training process more than any worker can save.",
    tone: "warn",
  },
  SLOW_BATCHES: { title: "Slow batches", text: "A few slow batches hold up those behind them.", tone: "warn" },
  START_UP: { title: "Start-up", text: "Starting the workers takes a good part of each epoch.", tone: "warn" },
  MEMORY: { title: "Memory limit", text: "More workers would help, but do not fit the memory limit.", tone: "warn" },
  SHARED_MEMORY: { title: "Shared memory", text: "More batches in flight do not fit /dev/shm.", tone: "warn" },
  OVERSUBSCRIBED: {
    title: "Oversubscribed",
    text: "Native threads in the workers compete for the cores.",
    tone: "warn",
  },
  STRAGGLER_RANK: { title: "Straggler rank", text: "One rank loads more slowly than the others.", tone: "warn" },
};
const UNKNOWN: Verdict = { title: "Not clear", text: "The measurements do not show one cause.", tone: "plain" };

/** Return a verdict in words, by its name on the wire. */
export function verdict(name: string | undefined): Verdict {
  return VERDICTS[(name ?? "").replace("VERDICT_", "")] ?? UNKNOWN;
}

const OUTCOMES: Record<string, [string, Tone]> = {
  OUTCOME_APPLIED: ["Applied", "good"],
  OUTCOME_ADVISED: ["Advice", "plain"],
  OUTCOME_REFUSED: ["Refused", "warn"],
  OUTCOME_FAILED: ["Failed", "warn"],
  OUTCOME_UNCHANGED: ["Kept", "plain"],
};

/** Return what became of a decision, and how it is to look. */
export function outcome(record: DecisionRecord): [string, Tone] {
  return isKept(record) ? ["Kept", "plain"] : (OUTCOMES[record.outcome ?? ""] ?? ["Pending", "plain"]);
}

/** Whether a decision left the settings alone. A client need not tell what became of such a one. */
export function isKept(record: DecisionRecord): boolean {
  if (record.outcome !== undefined) return record.outcome === "OUTCOME_UNCHANGED";
  const [before, after] = [record.before, record.settings];
  return !after || (num(before?.num_workers) === num(after.num_workers) && before?.prefetch_factor === after.prefetch_factor);
}

const MODES: Record<string, string> = {
  MODE_OFF: "off: nothing is measured",
  MODE_OBSERVE: "observe: measured, nothing recommended",
  MODE_ADVISE: "advise: recommendations are said, not applied",
  MODE_AUTO: "auto: recommendations are applied between epochs",
};

/** Return a mode and what it means. */
export function mode(name: string | undefined): string {
  return MODES[name ?? ""] ?? "unknown";
}

/** Return what the host's share of waiting is called: under CUDA it is not starvation, measured there or not. */
export function waitName(loader: LoaderState): string {
  return loader.uses_cuda ? "host wait" : "starvation";
}

/** Return a number in words, a dash where it is unknown. */
export function orDash(value: number | null, words: (value: number) => string): string {
  return value === null ? "–" : words(value);
}

/** Three digits: 0.123, 12.3, 1,230. */
export function number(value: number): string {
  return value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) >= 1000 ? 4 : 3 });
}

export function percent(share: number): string {
  return `${share > 0 && share < 0.01 ? "< 1" : Math.round(share * 100)}%`;
}

export function seconds(value: number): string {
  if (value >= 7200) return `${number(value / 3600)} h`;
  if (value >= 120) return `${number(value / 60)} min`;
  return value >= 1 || value === 0 ? `${number(value)} s` : `${number(value * 1000)} ms`;
}

const BINARY: [string, number][] = [
  ["TiB", 2 ** 40],
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
];

export function bytes(value: number): string {
  const [unit, size] = BINARY.find(([, least]) => value >= least) ?? ["B", 1];
  return `${number(value / size)} ${unit}`;
}

export function cores(value: number): string {
  return value === 1 ? "1 core" : `${number(value)} cores`;
}

export function workers(count: number): string {
  return count === 1 ? "1 worker" : `${count} workers`;
}

/** Return a prediction's bounds, in batches per second. */
export function bounds(p: Prediction): string {
  return `${number(num(p.batches_per_second_lower))} to ${number(num(p.batches_per_second_upper))}`;
}

/** Return settings as they are written in a call of DataLoader. */
export function call(settings: LoaderSettings | undefined): string {
  const parts = [`num_workers=${num(settings?.num_workers)}`];
  if (settings?.num_workers && settings.prefetch_factor !== undefined) {
    parts.push(`prefetch_factor=${settings.prefetch_factor}`);
  }
  if (settings?.persistent_workers) parts.push("persistent_workers=True");
  if (settings?.pin_memory) parts.push("pin_memory=True");
  return parts.join(", ");
}

/** Return a change of settings in a few words. */
export function change(before: LoaderSettings | undefined, after: LoaderSettings | undefined): string {
  const [from, to] = [num(before?.num_workers), num(after?.num_workers)];
  if (after === undefined) return workers(from);
  if (from !== to) return `${from} → ${workers(to)}`;
  const [deep, deeper] = [before?.prefetch_factor ?? 2, after.prefetch_factor ?? 2];
  return deep !== deeper ? `prefetch_factor ${deep} → ${deeper}` : workers(to);
}

/** Return what loaders are called, by id: rank and process are named only where that tells two apart. */
export function titles(loaders: LoaderState[]): Map<string, string> {
  const plain = loaders.map((loader) => {
    const several = num(loader.identity?.world_size) > 1;
    return several ? `${loader.loader ?? ""} · rank ${num(loader.identity?.rank)}` : (loader.loader ?? "");
  });
  const told = plain.map((name, i) => {
    const isAlone = plain.indexOf(name) === plain.lastIndexOf(name);
    return isAlone ? name : `${name} · process ${num(loaders[i]?.identity?.trainer_pid)}`;
  });
  return new Map(loaders.map((loader, i) => [loader.loader_id ?? "", told[i] ?? ""]));
}
