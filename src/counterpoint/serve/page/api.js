// Talking to the server: JSON, streams of events, and errors that a person can read.

const KEY = "counterpoint-key";

export const rememberKey = key => sessionStorage.setItem(KEY, key);
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

// What the server refused, or that it is away. `status` is 0 where nothing answered.
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export async function ask(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  try {
    return await response.json();
  } catch (error) {
    throw interrupted(error);
  }
}

// The events of a stream, each a parsed object; the last is followed by [DONE], without which the answer was cut off.
export async function* stream(path, body, signal) {
  const response = await send("POST", path, { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Failure(event.error.message, 500);
    yield event;
  }
  throw new Failure("The answer was cut off: the server went away. Try again.");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(error => { throw interrupted(error); });
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines.filter(line => line.startsWith("data: ")).map(line => line.slice(6));
  }
}

async function send(method, path, body, signal) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const request = { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal };
  const response = await fetch(path, request).catch(error => { throw interrupted(error); });
  if (!response.ok) throw await refused(response);
  return response;
}

function interrupted(error) {
  if (error.name === "AbortError") return error;
  return new Failure("The server does not answer. See whether it still runs, and try again; nothing here is lost.");
}

async function refused(response) {
  const told = await response.json().then(body => body.error?.message).catch(() => null);
  const wait = Number(response.headers.get("Retry-After"));
  const again = wait ? ` Try again in ${wait} second${wait === 1 ? "" : "s"}.` : "";
  const what = told || `The server answered ${response.status} ${response.statusText}`;
  return new Failure(sentence(what) + again, response.status);
}

function sentence(text) {
  const whole = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
