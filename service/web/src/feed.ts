// Asks the sidecar again and again, while someone looks.

import type { ContainerUsage, LoaderState, WatchResponse } from "./state";
import { known, num } from "./state";

const INTERVAL_MS = 1000;
/** Times as long as the last answer took: so looking costs the sidecar a twentieth of its time at most. */
const PATIENCE = 20;
/** Answers of a sidecar that is frozen do not come; this is no slow network. */
const TIMEOUT_MS = 5000;
const RETRY_MS = 2000;
/** Seconds over which CPU use and throttling are taken: the container is read once a second. */
const WINDOW_SECONDS = 10;

/** What the container did within the last seconds. */
export interface Usage {
  cores: number | null;
  throttled: number | null;
}

export interface View {
  /** Null until the first answer. */
  state: WatchResponse | null;
  /** Whether the last question was answered. */
  answered: boolean;
  /** When the last answer came, in milliseconds since 1970 on this machine. */
  at: number;
  /** By client: the ranks of a pod may be in several containers. */
  usage: Map<string, Usage>;
}

/** Follow the sidecar's state: ask at once, then about once a second while the page is visible. */
export function follow(show: (view: View) => void): void {
  let view: View = { state: null, answered: true, at: 0, usage: new Map() };
  let timer: number | undefined;
  let asking = false;
  const samples = new Map<string, ContainerUsage[]>();

  async function ask(): Promise<void> {
    if (asking || document.hidden) return;
    asking = true;
    const began = performance.now();
    try {
      const state = await read();
      view = { state, answered: true, at: Date.now(), usage: usages(samples, state.loaders ?? []) };
    } catch {
      view = { ...view, answered: false };
    }
    asking = false;
    show(view);
    const took = performance.now() - began;
    again(view.answered ? Math.max(INTERVAL_MS, PATIENCE * took) : RETRY_MS);
  }

  function again(delay: number): void {
    clearTimeout(timer);
    timer = setTimeout(() => void ask(), delay);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : again(0)));
  void ask();
}

async function read(): Promise<WatchResponse> {
  const answer = await fetch("api/v1/state", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return (await answer.json()) as WatchResponse;
}

function usages(samples: Map<string, ContainerUsage[]>, loaders: LoaderState[]): Map<string, Usage> {
  const found = new Map<string, Usage>();
  for (const loader of loaders) {
    const client = loader.identity?.client_id ?? "";
    if (loader.container === undefined || found.has(client)) continue;
    const kept = remember(samples.get(client) ?? [], loader.container);
    samples.set(client, kept);
    found.set(client, usage(kept));
  }
  for (const client of samples.keys()) if (!found.has(client)) samples.delete(client);
  return found;
}

/** Return the samples of the window, the newest last. */
function remember(kept: ContainerUsage[], now: ContainerUsage): ContainerUsage[] {
  const newest = num(now.stamp_seconds);
  const older = kept.filter((s) => {
    const stamp = num(s.stamp_seconds);
    return stamp < newest && newest - stamp <= WINDOW_SECONDS;
  });
  return [...older, now];
}

function usage(kept: ContainerUsage[]): Usage {
  const [first, last] = [kept[0], kept[kept.length - 1]];
  if (first === undefined || last === undefined || first === last) return { cores: null, throttled: null };
  const rise = (field: "cpu_seconds" | "periods" | "throttled_periods"): number | null => {
    const [from, to] = [known(first[field]), known(last[field])];
    return from === null || to === null || to < from ? null : to - from;
  };
  const seconds = num(last.stamp_seconds) - num(first.stamp_seconds);
  const [used, periods, throttled] = [rise("cpu_seconds"), rise("periods"), rise("throttled_periods")];
  return {
    cores: used === null ? null : used / seconds,
    throttled: periods === null || throttled === null || periods === 0 ? null : throttled / periods,
  };
}
