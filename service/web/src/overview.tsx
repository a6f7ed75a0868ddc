// All loaders, a line each: which one is worth a look.

import type { LoaderState } from "./state";
import { num, recentRate, recentStarvation } from "./state";
import { number, orDash, percent, verdict, waitName } from "./words";
import { Chip, Scroll } from "./parts";

interface Props {
  loaders: LoaderState[];
  /** By id. */
  names: Map<string, string>;
  shown: LoaderState | undefined;
}

export function Overview({ loaders, names, shown }: Props) {
  return (
    <section class="card overview" aria-labelledby="loaders">
      <h2 id="loaders">Loaders</h2>
      <Scroll label="Loaders">
        <table>
          <thead>
            <tr>
              <th scope="col">loader</th>
              <th scope="col">now</th>
              <th scope="col" class="figure">batches/s</th>
              <th scope="col" class="figure">workers</th>
              <th scope="col">verdict</th>
            </tr>
          </thead>
          <tbody>
            {loaders.map((loader) => (
              <Row
                key={loader.loader_id}
                loader={loader}
                name={names.get(loader.loader_id ?? "") ?? ""}
                isShown={loader === shown}
              />
            ))}
          </tbody>
        </table>
      </Scroll>
    </section>
  );
}

function Row({ loader, name, isShown }: { loader: LoaderState; name: string; isShown: boolean }) {
  const share = recentStarvation(loader);
  const rate = recentRate(loader);
  return (
    <tr class={isShown ? "shown" : ""}>
      <th scope="row">
        <a href={`#loader=${loader.loader_id ?? ""}`} aria-current={isShown ? "true" : undefined}>{name}</a>
      </th>
      <td>{loader.connected ? (share === null ? "no batch yet" : `${percent(share)} ${waitName(loader)}`) : "ended"}</td>
      <td class="figure">{orDash(rate, number)}</td>
      <td class="figure">{count(loader)}</td>
      <td>{loader.recommendation ? <Chip {...verdict(loader.recommendation.verdict)} /> : "none yet"}</td>
    </tr>
  );
}

function count(loader: LoaderState): string {
  const [used, wanted] = [num(loader.settings?.num_workers), loader.recommendation?.settings];
  return wanted && num(wanted.num_workers) !== used ? `${used} → ${num(wanted.num_workers)}` : `${used}`;
}
