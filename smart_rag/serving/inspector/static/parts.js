// Parts that several views draw.
import { html, nothing } from "./lit-html.js";

// A problem as a box with its sentence, advice and request id. Views use it for their own errors.
export function problemBox(problem, retry) {
  if (!problem) return nothing;
  return html`<div class="problem" role="group" aria-label="Error">
    <p><strong>${problem.sentence}</strong> ${problem.advice}</p>
    ${problem.id ? html`<p class="fine">Request <code>${problem.id}</code></p>` : nothing}
    ${retry ? html`<button class="button" @click=${retry}>Try again</button>` : nothing}
  </div>`;
}
