// One loader in full: what is wrong and what to do, what it does now, and how that came about.

import { Curve, Epochs, Now, WhatIf, WorkerMemory } from "./charts";
import type { Usage } from "./feed";
import { Chip, Tile } from "./parts";
import type { DecisionRecord, LoaderState, Recommendation } from "./state";
import { coresOf, known, newestWith, num, ownBytes, recentRate, recentStarvation, sum } from "./state";
import { bounds, bytes, call, change, cores, isKept, mode, number, orDash, outcome, percent } from "./words";
import { seconds, verdict, waitName, workers } from "./words";

/** A worker opens a file or two, a checkpoint takes seconds: half a minute is neither. */
const STALLED_SECONDS = 30;
/** Share of the memory limit from which it is worth a colour; a tenth is never planned for. */
const NEARLY_FULL = 0.9;
const NEWEST_DECISIONS = 6;

interface Props {
  loader: LoaderState;
  name: string;
  /** The sidecar's clock. */
  now: number;
  usage: Usage | undefined;
}

export function Details({ loader, name, now, usage }: Props) {
  return (
    <article aria-labelledby="loader">
      <div class="title">
        <h2 id="loader">{name}</h2>
        <p>{standing(loader, now)}</p>
      </div>
      <Warnings loader={loader} />
      <Answer loader={loader} />
      <Tiles loader={loader} usage={usage} />
      <section aria-label="Charts" class="grid">
        <Now loader={loader} />
        <Epochs loader={loader} />
        <Curve loader={loader} />
        <WhatIf loader={loader} />
        <WorkerMemory loader={loader} />
        <Settings loader={loader} />
      </section>
      <Decisions records={loader.decisions ?? []} />
    </article>
  );
}

function standing(loader: LoaderState, now: number): string {
  const age = now - num(loader.last_seen_seconds);
  const epochs = loader.epochs ?? [];
  const last = epochs[epochs.length - 1];
  const heard = age > 5 ? `last heard of ${seconds(Math.round(age))} ago` : "reporting";
  const where = last === undefined ? "no epoch yet" : `epoch ${num(last.epoch)}, ${progress(loader)}`;
  return [loader.connected ? heard : "ended", where, `mode ${mode(loader.mode)}`].join(" · ");
}

function progress(loader: LoaderState): string {
  const epochs = loader.epochs ?? [];
  const batches = num(epochs[epochs.length - 1]?.batches);
  const all = known(loader.batches_per_epoch);
  return all === null ? `${number(batches)} batches` : `${number(batches)} of ${number(all)} batches`;
}

function Warnings({ loader }: { loader: LoaderState }) {
  const stalled = num(loader.stalled_seconds);
  const kills = num(loader.container?.oom_kills);
  return (
    <>
      {stalled > STALLED_SECONDS && (
        <p class="card warning">
          No batch came for {seconds(stalled)} although some are outstanding: a worker hangs, or a single batch is very slow.
        </p>
      )}
      {loader.frozen && <p class="card warning">{loader.frozen}</p>}
      {kills > 0 && (
        <p class="card warning">The kernel killed for want of memory in this container, {number(kills)} times so far.</p>
      )}
    </>
  );
}

function Answer({ loader }: { loader: LoaderState }) {
  const answer = loader.recommendation;
  if (answer === undefined) return <NoAnswer loader={loader} />;
  const named = verdict(answer.verdict);
  return (
    <section class={`card answer ${named.tone}`} aria-labelledby="verdict">
      <div>
        <h3 id="verdict" aria-live="polite">{named.title}</h3>
        <p class="meaning">{named.text}</p>
        <p class="sentence">{answer.sentence}</p>
        <Advice advice={answer.advice ?? []} />
      </div>
      <Proposal loader={loader} answer={answer} />
      <div class="evidence">
        <h4>Evidence</h4>
        <ul>{(answer.evidence ?? []).map((fact) => <li key={fact.name}>{fact.text}</li>)}</ul>
      </div>
    </section>
  );
}

function NoAnswer({ loader }: { loader: LoaderState }) {
  const measured = loader.epochs?.length ?? 0;
  const message = loader.none?.message ?? `The first epoch is being measured: ${progress(loader)}.`;
  return (
    <section class="card answer plain" aria-labelledby="verdict">
      <div>
        <h3 id="verdict">No recommendation yet</h3>
        <p class="sentence">{measured === 0 && !loader.none ? "No batch was reported yet." : message}</p>
      </div>
    </section>
  );
}

function Advice({ advice }: { advice: string[] }) {
  if (advice.length === 0) return null;
  return (
    <div class="advice">
      <h4>To do by hand</h4>
      <ul>{advice.map((text) => <li key={text}>{text}</li>)}</ul>
    </div>
  );
}

function Proposal({ loader, answer }: { loader: LoaderState; answer: Recommendation }) {
  const [used, wanted] = [num(loader.settings?.num_workers), num(answer.settings?.num_workers)];
  const uncapped = num(answer.uncapped_num_workers);
  const chosen = answer.chosen;
  return (
    <div class="proposal">
      <h4>{answer.id ? `Recommended after epoch ${num(answer.epoch)}` : "Preview, before the epoch has ended"}</h4>
      <p class="big">{used === wanted ? workers(wanted) : `${used} → ${workers(wanted)}`}</p>
      {chosen && <p>{number(num(chosen.batches_per_second))} batches/s expected, {bounds(chosen)}</p>}
      <p><code>{call(answer.settings)}</code></p>
      {uncapped > wanted && <p>Without the pod's limits: {workers(uncapped)}.</p>}
      {answer.rolls_back && <p>It takes back an earlier change that did not help.</p>}
    </div>
  );
}

function Tiles({ loader, usage }: { loader: LoaderState; usage: Usage | undefined }) {
  const share = recentStarvation(loader);
  const rate = recentRate(loader);
  const device = known(newestWith(loader, "device_starvation")?.device_starvation);
  const busy = known(loader.container?.device_utilisation);
  return (
    <dl class="tiles" aria-label="Now">
      <Tile name={`${capital(waitName(loader))}, now`} value={orDash(share, percent)} share={share}
        note={share === null ? "no batch yet" : "of the newest batches"} tone={share !== null && share > 0.2 ? "warn" : "plain"} />
      {device !== null && <Tile name="Device starvation" value={percent(device)} share={device} note="last epoch measured" />}
      {busy !== null && <Tile name="Device utilisation" value={percent(busy)} share={busy} note="as NVML says" />}
      <Tile name="Speed, now" value={orDash(rate, number)} note="batches/s, start-up apart" />
      <Cpu loader={loader} usage={usage} />
      <Memory loader={loader} />
      <SharedMemory loader={loader} />
      <Workers loader={loader} />
    </dl>
  );
}

function Cpu({ loader, usage }: { loader: LoaderState; usage: Usage | undefined }) {
  const last = newestWith(loader, "cpu_used_cores");
  const limit = coresOf(loader.limits);
  const used = usage?.cores ?? known(last?.cpu_used_cores);
  const throttled = usage?.throttled ?? known(last?.throttled_ratio);
  const quota = loader.limits?.cpu_quota_cores !== undefined;
  const of = limit === null ? "limit unknown" : `of ${cores(limit)}${quota ? "" : ", no CPU limit"}`;
  return (
    <Tile
      name="CPU used"
      value={orDash(used, (value) => number(Math.round(value * 100) / 100))}
      note={throttled === null || !quota ? of : `${of}, throttled in ${percent(throttled)} of periods`}
      share={used !== null && limit !== null ? used / limit : null}
      tone={throttled !== null && throttled > 0.1 ? "warn" : "plain"}
    />
  );
}

function Memory({ loader }: { loader: LoaderState }) {
  const [used, limit] = [known(loader.container?.memory_bytes), known(loader.limits?.memory_bytes)];
  const note = limit === null ? "page cache apart, limit unknown" : `of ${bytes(limit)}, page cache apart`;
  return <Space name="Memory needed" used={used} limit={limit} note={note} />;
}

function SharedMemory({ loader }: { loader: LoaderState }) {
  const [used, size] = [known(loader.container?.shm_bytes), known(loader.limits?.shm_bytes)];
  return <Space name="/dev/shm" used={used} limit={size} note={size === null ? "size unknown" : `of ${bytes(size)}`} />;
}

interface Space {
  name: string;
  used: number | null;
  limit: number | null;
  note: string;
}

/** Bytes in use, of what there is. */
function Space({ name, used, limit, note }: Space) {
  if (used === null) return null;
  const share = limit === null || limit === 0 ? null : used / limit;
  const tone = share !== null && share > NEARLY_FULL ? "warn" : "plain";
  return <Tile name={name} value={bytes(used)} note={note} share={share} tone={tone} />;
}

function Workers({ loader }: { loader: LoaderState }) {
  const own = (loader.workers ?? []).map(ownBytes).filter((b): b is number => b !== null);
  const all = sum(own);
  const note = own.length === 0 ? "memory not read yet" : `${bytes(all)} in all, ${bytes(all / own.length)} each`;
  const count = num(loader.settings?.num_workers);
  return <Tile name="Workers" value={`${count}`} note={count === 0 ? "the main process loads" : note} />;
}

function Settings({ loader }: { loader: LoaderState }) {
  return (
    <section class="card settings" aria-labelledby="settings">
      <h3 id="settings">Settings</h3>
      <dl>
        <dt>in use</dt>
        <dd><code>{call(loader.settings)}</code></dd>
        <dt>in the script</dt>
        <dd><code>{call(loader.initial_settings)}</code></dd>
        <dt>mode</dt>
        <dd>{mode(loader.mode)}</dd>
        <dt>job</dt>
        <dd>{loader.identity?.job ?? "–"}</dd>
      </dl>
    </section>
  );
}

function Decisions({ records }: { records: DecisionRecord[] }) {
  if (records.length === 0) return null;
  const newest = runs(records).reverse();
  return (
    <section class="card decisions" aria-labelledby="decisions">
      <h3 id="decisions">Decisions</h3>
      <ol>{newest.slice(0, NEWEST_DECISIONS).map(Decision)}</ol>
      {newest.length > NEWEST_DECISIONS && (
        <details>
          <summary>{newest.length - NEWEST_DECISIONS} earlier</summary>
          <ol>{newest.slice(NEWEST_DECISIONS).map(Decision)}</ol>
        </details>
      )}
    </section>
  );
}

/** Decisions of one kind, one after the other. */
interface Run {
  first: number;
  last: DecisionRecord;
}

/** Put together what was kept for the same reason epoch after epoch: a settled loader has little to tell. */
function runs(records: DecisionRecord[]): Run[] {
  const found: Run[] = [];
  for (const record of records) {
    const before = found[found.length - 1];
    const goes = before !== undefined && isKept(record) && isKept(before.last);
    if (goes && before.last.verdict === record.verdict) before.last = record;
    else found.push({ first: num(record.epoch), last: record });
  }
  return found;
}

function Decision({ first, last: record }: Run) {
  const [became, tone] = outcome(record);
  const epoch = num(record.epoch);
  return (
    <li key={first}>
      <p class="what">
        <span class="when">{first === epoch ? `epoch ${epoch}` : `epochs ${first} to ${epoch}`}</span>
        <strong>{change(record.before, record.settings)}</strong>
        <Chip title={became} tone={tone} />
        <span class="why">{verdict(record.verdict).title}</span>
        {record.rolls_back && <span class="why">rolled back</span>}
      </p>
      <p>{record.sentence}</p>
      {record.detail && <p class="detail">{record.detail}</p>}
    </li>
  );
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
