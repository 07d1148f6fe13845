// The views of the page, in the order of the top bar. A view is a module of its own with these exports:
//   name, title        the part of the address after "#/", and the word in the bar
//   view(state, actions)        returns the view as a lit-html template
//   opened(state, actions)      optional: the view or another index was opened
//   drawn(root, state, actions) optional: the template is in the page
//   key(event, state, actions)  optional: a key was pressed outside of fields; returns true if it used the key
//   keys                        optional: [[key, what it does], ...] for the list of keys
import * as documents from "./documents.js";
import * as judge from "./judge.js";
import * as search from "./search.js";
import * as statistics from "./statistics.js";

export const views = [search, documents, judge, statistics];
