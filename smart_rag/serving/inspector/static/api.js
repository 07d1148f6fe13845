// Requests to the server. Every failure becomes a `Problem` with one sentence what, and one what to do.

export class Problem extends Error {
  constructor(status, sentence, advice, id = "") {
    super(sentence);
    this.status = status;
    this.sentence = sentence;
    this.advice = advice;
    this.id = id;
  }

  get isGone() {
    return this.status === 0;
  }
}

const ADVICE = {
  0: "Check that the server runs. The page tries again by itself.",
  401: "Open the address that the server has printed, which ends in #token=…, or enter the token here.",
  403: "Open the page at the address that the server has printed.",
  404: "It may have been removed meanwhile. Search again.",
  408: "Try again. If this returns, the connection is too slow for the limit of the server.",
  413: "Send less at a time, or start the server with a larger --max-body.",
  421: "Open the page at the address that the server has printed.",
  503: "Try again in a moment.",
  507: "Free some space on the disk of the server.",
};

function sentenceOf(text) {
  const trimmed = String(text).trim();
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

async function problemOf(response) {
  let detail = "";
  try {
    detail = (await response.json()).detail ?? "";
  } catch {
    detail = "";
  }
  const advice = ADVICE[response.status] ?? (response.status >= 500 ? "The log of the server says more." : "");
  return new Problem(
    response.status,
    sentenceOf(detail || `the server answered with status ${response.status}`),
    advice,
    response.headers.get("x-request-id") ?? "",
  );
}

// Send a request. `signal` aborts it: then an AbortError is thrown, which is no problem to show.
async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      credentials: "same-origin",
      cache: "no-store",
      ...options,
      headers: { "X-Smart-Rag": "inspector", ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer.", ADVICE[0]);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

const withJson = (method, value) => ({
  method,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export const api = {
  send,
  async get(path, signal) {
    return (await send(path, { signal })).json();
  },
  async post(path, value, signal) {
    return (await send(path, { ...withJson("POST", value), signal })).json();
  },
  async put(path, value, signal) {
    return (await send(path, { ...withJson("PUT", value), signal })).json();
  },
  async delete(path, value, signal) {
    return (await send(path, { ...withJson("DELETE", value), signal })).json();
  },
  async bytes(path, value, signal) {
    return (await send(path, { ...withJson("POST", value), signal })).arrayBuffer();
  },
  // Send a file as the body. Only XMLHttpRequest says how much has been sent.
  upload(path, file, { headers = {}, onProgress, signal } = {}) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", path);
      for (const [name, value] of Object.entries({ "X-Smart-Rag": "inspector", ...headers })) {
        request.setRequestHeader(name, value);
      }
      request.responseType = "text";
      request.upload.onprogress = (event) => event.lengthComputable && onProgress?.(event.loaded / event.total);
      request.onerror = () => reject(new Problem(0, "The server does not answer.", ADVICE[0]));
      request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
      request.onload = async () => {
        const response = new Response(request.status === 204 ? null : request.responseText, {
          status: request.status,
          headers: { "x-request-id": request.getResponseHeader("x-request-id") ?? "" },
        });
        if (!response.ok) return reject(await problemOf(response));
        resolve(request.responseText ? JSON.parse(request.responseText) : null);
      };
      signal?.addEventListener("abort", () => request.abort());
      request.send(file);
    });
  },
  async signIn(token) {
    // A header holds only these characters. Any other cannot be part of the token.
    const known = /^[\x20-\x7e]+$/.test(token) ? token : "none";
    await send("/session", { method: "POST", headers: { Authorization: `Bearer ${known}` } });
  },
};

// Address of an endpoint of an index. Ids may have slashes, which are part of the address of a document.
export const of = (index, path) => `/indexes/${encodeURIComponent(index)}${path}`;
export const imageUrl = (index, id, pixels) =>
  `${of(index, "/images/")}${encodeURIComponent(id)}?max_pixels=${pixels}`;
