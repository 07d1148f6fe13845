import { html } from "./lit-html.js";

export const name = "search";
export const title = "Search";

export function view(state) {
  return html`<main class="view"><h1>${title}</h1><p>${state.db}</p></main>`;
}
