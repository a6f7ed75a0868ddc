// What /api/v1/state answers: the JSON form of WatchResponse in protos/feedwater/v1/feedwater.proto.
//
// Fields that are zero, false or empty are left out there, and 64-bit numbers come as text: read them by
// `num`, which takes both. A test compares the names here with the proto's.

type Int64 = string;

export interface LoaderSettings {
  num_workers?: number;
  prefetch_factor?: number;
  persistent_workers?: boolean;
  pin_memory?: boolean;
}

export interface Limits {
  cpu_quota_cores?: number;
  cpus?: number;
  memory_bytes?: Int64;
  shm_bytes?: Int64;
}

export interface ContainerUsage {
  stamp_seconds?: number;
  cpu_seconds?: number;
  periods?: Int64;
  throttled_periods?: Int64;
  memory_bytes?: Int64;
  shm_bytes?: Int64;
  oom_kills?: Int64;
  device_utilisation?: number;
}

export interface Identity {
  client_id?: string;
  job?: string;
  namespace?: string;
  pod?: string;
  rank?: number;
  world_size?: number;
  trainer_pid?: number;
}

export interface EpochSummary {
  epoch?: number;
  settings?: LoaderSettings;
  batches?: Int64;
  seconds?: number;
  start_up_seconds?: number;
  batches_per_second?: number;
  starvation?: number;
  complete?: boolean;
  verdict?: string;
  device_starvation?: number;
  cpu_used_cores?: number;
  throttled_ratio?: number;
}

export interface Evidence {
  name?: string;
  value?: number;
  text?: string;
}

export interface Prediction {
  settings?: LoaderSettings;
  batches_per_second?: number;
  batches_per_second_lower?: number;
  batches_per_second_upper?: number;
  starvation?: number;
  memory_bytes?: Int64;
  shm_bytes?: Int64;
}

export interface WhatIf {
  cpu_limit_cores?: number;
  best?: Prediction;
}

export interface Recommendation {
  id?: string;
  epoch?: number;
  settings?: LoaderSettings;
  uncapped_num_workers?: number;
  verdict?: string;
  sentence?: string;
  evidence?: Evidence[];
  current?: Prediction;
  chosen?: Prediction;
  curve?: Prediction[];
  advice?: string[];
  changes?: boolean;
  rolls_back?: boolean;
  what_if?: WhatIf[];
}

export interface NoRecommendation {
  reason?: string;
  message?: string;
}

export interface WorkerMemory {
  worker?: number;
  rss_bytes?: Int64;
  pss_bytes?: Int64;
  uss_bytes?: Int64;
}

export interface RecentBatches {
  wait_seconds?: number[];
  step_seconds?: number[];
}

export interface DecisionRecord {
  epoch?: number;
  before?: LoaderSettings;
  settings?: LoaderSettings;
  verdict?: string;
  sentence?: string;
  outcome?: string;
  detail?: string;
  rolls_back?: boolean;
}

export interface LoaderState {
  loader_id?: string;
  identity?: Identity;
  loader?: string;
  mode?: string;
  settings?: LoaderSettings;
  limits?: Limits;
  epochs?: EpochSummary[];
  recommendation?: Recommendation;
  none?: NoRecommendation;
  connected?: boolean;
  uses_cuda?: boolean;
  container?: ContainerUsage;
  workers?: WorkerMemory[];
  recent?: RecentBatches;
  decisions?: DecisionRecord[];
  last_seen_seconds?: number;
  stalled_seconds?: number;
  frozen?: string;
  initial_settings?: LoaderSettings;
  batches_per_epoch?: Int64;
}

export interface WatchResponse {
  loaders?: LoaderState[];
  version?: string;
  time_seconds?: number;
}

/** Return a number that may come as text, 0 where it was left out because it is 0. */
export function num(value: number | string | undefined): number {
  return value === undefined ? 0 : Number(value);
}

/** Return a number that may be unknown. */
export function known(value: number | string | undefined): number | null {
  return value === undefined ? null : Number(value);
}

/** Return the share of wait in wait + step of the newest batches; null before there are any. */
export function recentStarvation(loader: LoaderState): number | null {
  const waits = sum(loader.recent?.wait_seconds);
  const all = waits + sum(loader.recent?.step_seconds);
  return all > 0 ? waits / all : null;
}

/** Return batches per second of the newest batches; null before there are any. */
export function recentRate(loader: LoaderState): number | null {
  const seconds = sum(loader.recent?.wait_seconds) + sum(loader.recent?.step_seconds);
  return seconds > 0 ? (loader.recent?.step_seconds?.length ?? 0) / seconds : null;
}

/** Return the newest epoch in which this was measured. */
export function newestWith(loader: LoaderState, field: keyof EpochSummary): EpochSummary | undefined {
  return (loader.epochs ?? []).filter((epoch) => epoch[field] !== undefined).pop();
}

/** Return the cores that the container may use: the smaller of quota and CPUs. */
export function coresOf(limits: Limits | undefined): number | null {
  const found = [limits?.cpu_quota_cores, limits?.cpus].filter((c): c is number => c !== undefined && c > 0);
  return found.length > 0 ? Math.min(...found) : null;
}

/** Return what one worker takes for itself: USS, else PSS; never RSS, which counts what all workers share in each. */
export function ownBytes(worker: WorkerMemory): number | null {
  return known(worker.uss_bytes ?? worker.pss_bytes);
}

export function sum(values: number[] | undefined): number {
  return (values ?? []).reduce((a, b) => a + b, 0);
}
