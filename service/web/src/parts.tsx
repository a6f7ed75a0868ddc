// Small parts that several sections are made of.

import type { ComponentChildren } from "preact";
import type { Tone } from "./words";

export function Chip({ title, tone }: { title: string; tone: Tone }) {
  return <span class={`chip ${tone}`}>{title}</span>;
}

/** What is wider than a phone scrolls by itself, by keyboard too. */
export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="scroll" role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

/** The figures behind a picture. */
export function Figures({ title, head, rows }: { title: string; head: string[]; rows: string[][] }) {
  return (
    <details>
      <summary>Figures</summary>
      <Scroll label={`${title}: figures`}>
        <table>
          <thead>
            <tr>{head.map((name) => <th scope="col" key={name}>{name}</th>)}</tr>
          </thead>
          <tbody>
            {rows.map((row, i) => (
              <tr key={i}>{row.map((cell, j) => (j === 0 ? <th scope="row">{cell}</th> : <td key={j}>{cell}</td>))}</tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </details>
  );
}

interface Tile {
  name: string;
  value: string;
  note?: string;
  /** Of a limit, 0 to 1: shown as a bar. */
  share?: number | null;
  tone?: Tone;
}

export function Tile({ name, value, note, share, tone }: Tile) {
  return (
    <div class={`tile ${tone ?? "plain"}`}>
      <dt>{name}</dt>
      <dd>
        <span class="value">{value}</span>
        {note && <span class="note">{note}</span>}
        {share !== undefined && share !== null && (
          <span class="bar" aria-hidden="true">
            <span class="fill" style={{ width: `${Math.min(100, share * 100).toFixed(1)}%` }} />
          </span>
        )}
      </dd>
    </div>
  );
}
