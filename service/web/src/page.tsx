// The page: a head that says whether the sidecar answers, all loaders, and one of them in full.

import "uplot/dist/uPlot.min.css";
import "./page.css";
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { View } from "./feed";
import { follow } from "./feed";
import { Details } from "./details";
import { Overview } from "./overview";
import type { LoaderState } from "./state";
import { num, recentStarvation } from "./state";
import { percent, titles, verdict, waitName } from "./words";

function Page({ view }: { view: View }) {
  const loaders = sorted(view.state?.loaders ?? []);
  const chosen = useChosen();
  const last = useRef("");
  const named = (id: string) => loaders.find((loader) => loader.loader_id === id);
  const shown = named(chosen) ?? named(last.current) ?? worthALook(loaders);
  last.current = shown?.loader_id ?? "";
  const names = titles(loaders);
  const name = names.get(shown?.loader_id ?? "") ?? "";
  useEffect(() => {
    document.title = shown ? `${headline(shown, name)} · Feedwater` : "Feedwater";
  });
  return (
    <>
      <a class="skip" href="#main">Skip to the loaders</a>
      <Head view={view} loaders={loaders} />
      <main id="main" tabIndex={-1} class={view.answered ? "" : "stale"}>
        {view.state !== null && loaders.length === 0 && <Nobody />}
        {loaders.length > 1 && <Overview loaders={loaders} names={names} shown={shown} />}
        {shown && (
          <Details
            key={shown.loader_id}
            loader={shown}
            name={name}
            now={num(view.state?.time_seconds)}
            usage={view.usage.get(shown.identity?.client_id ?? "")}
          />
        )}
      </main>
      <footer>
        <p>
          Feedwater {view.state?.version ?? ""} · read-only · <a href="metrics">metrics</a> ·{" "}
          <a href="api/v1/state">state as JSON</a> · <a href="licenses.txt">licenses</a>
        </p>
      </footer>
    </>
  );
}

function Head({ view, loaders }: { view: View; loaders: LoaderState[] }) {
  const identity = loaders[0]?.identity;
  return (
    <header class="top">
      <h1>Feedwater</h1>
      {identity && <p class="where">{[identity.namespace, identity.pod ?? identity.job].filter(Boolean).join(" / ")}</p>}
      <p class={`live ${view.answered ? "good" : "warn"}`} role="status">
        {view.answered ? "Live" : lost(view)}
      </p>
    </header>
  );
}

function lost(view: View): string {
  if (view.at === 0) return "The sidecar does not answer. Trying again.";
  const time = new Date(view.at).toLocaleTimeString();
  return `The sidecar does not answer. This is what it said at ${time}. Trying again.`;
}

function Nobody() {
  return (
    <section class="card nobody" aria-labelledby="nobody">
      <h2 id="nobody">No loader yet</h2>
      <p>The sidecar is ready, and no training has reported to it. In the training script, two lines:</p>
      <pre tabIndex={0}>
        <code>{'import feedwater\n\nloader = feedwater.watch(loader, name="train")'}</code>
      </pre>
      <p>
        Or none: start it with <code>feedwater run train.py</code>. The trainer needs the volume that holds the
        sidecar's socket; <code>FEEDWATER_ADDRESS</code> says where it is, if not at <code>/run/feedwater</code>.
      </p>
      <p>This page shows the loader as soon as it is iterated for the first time.</p>
    </section>
  );
}

function headline(loader: LoaderState, name: string): string {
  const share = recentStarvation(loader);
  if (loader.recommendation) return `${name}: ${verdict(loader.recommendation.verdict).title}`;
  return share === null ? name : `${name}: ${percent(share)} ${waitName(loader)}`;
}

function sorted(loaders: LoaderState[]): LoaderState[] {
  const order = (a: LoaderState, b: LoaderState) =>
    Number(b.connected ?? false) - Number(a.connected ?? false) ||
    (a.loader ?? "").localeCompare(b.loader ?? "") ||
    num(a.identity?.rank) - num(b.identity?.rank);
  return [...loaders].sort(order);
}

/** What a visitor most likely came for; what is shown stays, whatever the others do later. */
function worthALook(loaders: LoaderState[]): LoaderState | undefined {
  const live = loaders.filter((loader) => loader.connected);
  return live.find((loader) => verdict(loader.recommendation?.verdict).tone === "warn") ?? loaders[0];
}

/** The loader that the address names: #loader=ID. */
function useChosen(): string {
  const read = () => new URLSearchParams(location.hash.slice(1)).get("loader") ?? "";
  const [chosen, choose] = useState(read);
  useEffect(() => {
    const changed = () => choose(read());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return chosen;
}

const place = document.getElementById("page");
if (place !== null) follow((view) => render(<Page view={view} />, place));
